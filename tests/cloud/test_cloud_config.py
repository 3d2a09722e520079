"""What ``skerry-cloud.toml`` may say, and what is said where it is wrong."""

import pytest

from skerry_cloud.config import CloudConfig
from skerry_shared.config import parse_toml
from skerry_shared.errors import ConfigError

FLEET = 'fleet = "f"\n'


def read(text: str) -> CloudConfig:
    return parse_toml(CloudConfig, FLEET + text, "skerry-cloud.toml")


def test_a_workload_may_have_a_policy_of_its_own() -> None:
    retrain = read('[retrain]\nmin_labels = 50\n[retrain.own.digits]\non = ["labels"]\nnew_labels = 9').retrain
    assert retrain.min_labels == 50 and retrain.own["digits"].on == ("labels",)
    assert retrain.own["digits"].min_labels == 200  # the default: it takes nothing from the common table


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("database = 'postgresql://host/name'", r"database: needs a URL that begins with .* postgresql\+asyncpg://"),
        ("[retrain.own.digit]", r"retrain.own.digit: no such workload; known: digits, fashion"),
        ("[retrain.own.digits]\nmin_label = 1", r"retrain: own.digits: unknown key 'min_label'; did you mean"),
        ("[retrain.own.digits]\nmin_labels = 0", r"retrain: own.digits: needs min_labels >= 1"),
        ("[retrain.own.digits.own.fashion]", r"own.digits: has an own table in it"),
        ("[retrain.own.digits]\nbudget_money = 5", r"cost.per_minute: needs to be above 0"),
        ("[cost]\nper_minute = -1", r"cost: per_minute: needs nothing below 0"),
        ("[retrain]\non = ['schedule']", r"every_days: needs to be above 0 where on has 'schedule'"),
    ],
)
def test_what_is_wrong_is_named(text: str, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        read(text)
