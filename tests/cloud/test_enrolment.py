import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from cryptography import x509
from sqlalchemy import select

from skerry_cloud.fleet.enrolment import Addresses, Enrolment, Renewal, Request, permitted
from skerry_cloud.keys import Keys
from skerry_cloud.store import Device, Installed, Store
from skerry_shared import identity
from skerry_shared.errors import NotFoundError, StateError, TrustError, UsageError
from skerry_shared.identity import Token

HOUR = 3600.0
NOW = 1_800_000_000.0


def service(store: Store, keys: Keys) -> Enrolment:
    return Enrolment(store, keys, "test", b"{}", Addresses("https://r", "g:1", ""), days=90)


def request(token: str, name: str = "edge-1", asked: str = "edge-1", profile: str = "") -> Request:
    return Request(Token.parse(token).secret, identity.request(asked, identity.new_key()).decode(), name, profile)


def tell(with_store: Callable[[Any], None], keys: Keys, story: Any) -> None:
    async def run(store: Store) -> None:
        enrolment = service(store, keys)
        await story(store, enrolment, await enrolment.announce("edge-1", "generic-x86-64", HOUR, NOW))

    with_store(run)


def test_a_token_buys_one_certificate_for_one_name(with_store: Callable[[Any], None], fleet_keys: Keys) -> None:
    async def story(store: Store, enrolment: Enrolment, token: str) -> None:
        reply = await enrolment.enroll(request(token), NOW)
        certificate = x509.load_pem_x509_certificate(reply["certificate"].encode())
        certificate.verify_directly_issued_by(fleet_keys.authority.certificate)
        assert identity.common_name(certificate) == "edge-1"
        assert (await store.get(Device, "edge-1")).state == "enrolled"
        assert await permitted(store, "edge-1")
        with pytest.raises(TrustError, match="used already"):
            await enrolment.enroll(request(token), NOW)
        with pytest.raises(StateError, match="is enrolled; revoke it first"):
            await enrolment.announce("edge-1", "generic-x86-64", HOUR, NOW)

    tell(with_store, fleet_keys, story)


def test_wrong_tokens_and_requests_change_nothing(with_store: Callable[[Any], None], fleet_keys: Keys) -> None:
    async def story(store: Store, enrolment: Enrolment, token: str) -> None:
        made_up = str(Token("0" * 40, Token.parse(token).authority))
        cases: list[tuple[Request, float, type[Exception], str]] = [
            (request(made_up), NOW, TrustError, "not one for edge-1"),
            (request(token, name="edge-2", asked="edge-2"), NOW, TrustError, "not one for edge-2"),
            (request(token), NOW + HOUR + 1, TrustError, "expired"),
            (request(token, asked="edge-2"), NOW, UsageError, "asks for 'edge-2'"),
            (Request(Token.parse(token).secret, "nonsense", "edge-1", ""), NOW, UsageError, "csr"),
            (request(token, profile="industrial-pc"), NOW, StateError, "announced as generic-x86-64"),
        ]
        for asked, when, kind, words in cases:
            with pytest.raises(kind, match=words):
                await enrolment.enroll(asked, when)
            assert (await store.get(Device, "edge-1")).state == "announced"
        assert not await permitted(store, "edge-1")
        await enrolment.enroll(request(token), NOW)  # the token is still good

    tell(with_store, fleet_keys, story)


def test_the_clouds_own_name_is_not_for_devices(with_store: Callable[[Any], None], fleet_keys: Keys) -> None:
    async def story(store: Store, enrolment: Enrolment, _: str) -> None:
        with pytest.raises(UsageError, match="own name"):
            await enrolment.announce("cloud", "generic-x86-64", HOUR, NOW)
        with pytest.raises(NotFoundError):
            await store.get(Device, "cloud")

    tell(with_store, fleet_keys, story)


def test_a_revoked_device_is_not_permitted_until_it_enrols_anew(
    with_store: Callable[[Any], None], fleet_keys: Keys
) -> None:
    async def story(store: Store, enrolment: Enrolment, token: str) -> None:
        await enrolment.enroll(request(token), NOW)
        await enrolment.revoke("edge-1", NOW)
        assert not await permitted(store, "edge-1")
        again = await enrolment.announce("edge-1", "generic-x86-64", HOUR, NOW)
        await enrolment.enroll(request(again), NOW)
        assert await permitted(store, "edge-1")

    tell(with_store, fleet_keys, story)


def test_a_device_that_enrols_anew_begins_empty_and_its_counter_goes_on(
    with_store: Callable[[Any], None], fleet_keys: Keys
) -> None:
    async def story(store: Store, enrolment: Enrolment, token: str) -> None:
        await enrolment.enroll(request(token), NOW)
        async with store.begin() as session:
            (await session.get_one(Device, "edge-1")).counter = 7
            session.add(Installed(device="edge-1", workload="w", release=2))
        await enrolment.revoke("edge-1", NOW)
        await enrolment.announce("edge-1", "generic-x86-64", HOUR, NOW)
        assert (await store.get(Device, "edge-1")).counter == 7  # no two assignments of a device have the same
        assert await store.all(select(Installed)) == []

    tell(with_store, fleet_keys, story)


def test_one_token_asked_for_many_times_at_once_buys_one_certificate(
    with_store: Callable[[Any], None], fleet_keys: Keys
) -> None:
    async def story(_: Store, enrolment: Enrolment, token: str) -> None:
        asked = [enrolment.enroll(request(token), NOW) for _ in range(5)]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        assert sum(isinstance(answer, dict) for answer in answers) == 1
        assert sum(isinstance(answer, TrustError) for answer in answers) == 4

    tell(with_store, fleet_keys, story)


def test_tokens_end_with_a_newer_one_and_with_a_revocation(with_store: Callable[[Any], None], fleet_keys: Keys) -> None:
    async def story(_: Store, enrolment: Enrolment, first: str) -> None:
        second = await enrolment.announce("edge-1", "generic-x86-64", HOUR, NOW)
        with pytest.raises(TrustError, match="not one for edge-1"):
            await enrolment.enroll(request(first), NOW)
        await enrolment.revoke("edge-1", NOW)
        with pytest.raises(TrustError, match="not one for edge-1"):
            await enrolment.enroll(request(second), NOW)

    tell(with_store, fleet_keys, story)


def test_a_device_may_say_what_it_is_where_the_operator_left_it_open(
    with_store: Callable[[Any], None], fleet_keys: Keys
) -> None:
    async def story(store: Store) -> None:
        enrolment = service(store, fleet_keys)
        token = await enrolment.announce("edge-1", "auto", HOUR, NOW)
        with pytest.raises(UsageError, match="enrol it with --profile auto"):
            await enrolment.enroll(request(token), NOW)
        with pytest.raises(NotFoundError, match="no 'toaster'"):
            await enrolment.enroll(request(token, profile="toaster"), NOW)
        assert (await enrolment.enroll(request(token, profile="raspberry-pi-5"), NOW))["profile"] == "raspberry-pi-5"
        assert (await store.get(Device, "edge-1")).profile == "raspberry-pi-5"

    with_store(story)


def test_a_device_renews_with_its_own_key_alone(with_store: Callable[[Any], None], fleet_keys: Keys) -> None:
    async def story(store: Store, enrolment: Enrolment, token: str) -> None:
        key = identity.new_key()
        csr = identity.request("edge-1", key).decode()
        await enrolment.enroll(Request(Token.parse(token).secret, csr, "edge-1", ""), NOW)
        later = NOW + 100 * 86400  # the first certificate is over
        again = x509.load_pem_x509_certificate((await enrolment.renew(Renewal(csr), later))["certificate"].encode())
        again.verify_directly_issued_by(fleet_keys.authority.certificate)
        assert again.public_key() == key.public_key() and again.not_valid_after_utc > identity.utc(later)
        stolen_name = identity.request("edge-1", identity.new_key()).decode()
        for asked in (stolen_name, identity.request("edge-2", key).decode()):
            with pytest.raises(TrustError, match="is not enrolled with this key"):
                await enrolment.renew(Renewal(asked), later)
        with pytest.raises(UsageError, match="csr: not a certificate signing request"):
            await enrolment.renew(Renewal("nonsense"), later)
        await enrolment.revoke("edge-1", later)
        with pytest.raises(TrustError, match="is not enrolled with this key"):
            await enrolment.renew(Renewal(csr), later)

    tell(with_store, fleet_keys, story)
