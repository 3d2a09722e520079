import base64
from pathlib import Path

import pytest

from skerry_cloud import routes
from skerry_cloud.adapters.alertmanager import alert
from skerry_cloud.config import TEMPLATE, CloudConfig
from skerry_shared.config import parse_toml
from skerry_shared.errors import ConfigError

HOOK = 'kind = "webhook"\nurl = "https://h.example"\n'


def parsed(route: str) -> CloudConfig:
    return parse_toml(CloudConfig, f'fleet = "main"\n[alarms.routes.team]\n{route}', "cloud.toml")


@pytest.mark.parametrize(
    ("route", "words"),
    [
        ('kind = "pigeon"\nurl = "https://h"', "expected one of 'webhook', 'mail', 'alertmanager'"),
        ('kind = "webhook"\nurl = "http://h"\nsecret = "s"', "url: a webhook needs https://"),
        ('kind = "mail"\nurl = "https://h"', "url: a mail needs smtp:// or smtps://"),
        ('kind = "mail"\nurl = "smtp://me:pass@h"', "no password"),
        (HOOK, "secret: a webhook is signed"),
        (HOOK + 'secret = "s"\nstep = -1', "step: needs a number from 0 on"),
    ],
)
def test_a_wrong_route_is_refused_with_its_key(route: str, words: str) -> None:
    with pytest.raises(ConfigError, match=r"cloud\.toml: alarms: routes\.team") as caught:
        parsed(route)
    assert words in str(caught.value)


def test_a_secret_that_is_missing_or_weak_names_its_route(tmp_path: Path) -> None:
    found = parsed(HOOK + 'secret = "team.secret"').alarms
    for content in (None, "hush"):
        if content:
            (tmp_path / "team.secret").write_text(content)
        with pytest.raises(ConfigError, match=r"alarms\.routes\.team: .*secret"):
            routes.load(found, tmp_path)


def test_every_kind_of_route_is_made(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("whsec_" + base64.b64encode(bytes(32)).decode() + "\n")
    kinds = [HOOK + 'secret = "s"', 'kind = "mail"\nurl = "smtp://me@mail.example"\nsecret = "s"\nstep = 2',
             'kind = "alertmanager"\nurl = "http://localhost:9093"\nworkloads = ["w"]']  # fmt: skip
    made = [routes.load(parsed(kind).alarms, tmp_path)["team"] for kind in kinds]
    assert [(type(route.carrier).__name__, route.step, route.workloads) for route in made] == [
        ("Webhook", 0, ()), ("Mail", 2, ()), ("Alertmanager", 0, ("w",)),
    ]  # fmt: skip


def test_a_trial_is_an_alarm_that_is_over() -> None:
    message = routes.trial("main", "team", "skerry@example.org", 1.8e9)
    told = alert(message)
    assert told["startsAt"] == told["endsAt"] and message.alarm["owner"] == "skerry@example.org"
    assert message.subject == "[main] alarm 0 tested: test on the whole fleet, test" and "route team" in message.text


def test_the_template_shows_what_is_right() -> None:
    text = TEMPLATE.format(
        fleet="main", address="127.0.0.1", hosts='["localhost"]', https_port=1, grpc_port=2, mqtt_port=3
    )
    shown = "\n".join(
        line.removeprefix("# ") if "=" in line or line.startswith("# [") else line for line in text.split("\n")
    )
    shown = shown.replace("Your own: name", "# Your own: name").replace("per_minute = 0.0", "per_minute = 0.02")
    found = parse_toml(CloudConfig, shown, "cloud.toml")
    assert found.retrain.budget_money and found.retrain.own["casting"].on == ("schedule",)
    assert set(found.alarms.routes) == {"team", "owner"} and found.alarms.routes["owner"].step == 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[ingest]\nworkers = 65", "ingest: workers: needs a number from 0 to 64"),
        ("[lake]\nvacuum_hours = 0.5", "lake.vacuum_hours: needs 1 at least, or ingest.workers = 0"),
    ],
)
def test_workers_that_cannot_be_are_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_toml(CloudConfig, f'fleet = "north"\n{text}', "skerry-cloud.toml")
