import time
from pathlib import Path

from cryptography import x509

from skerry_cloud import keys
from skerry_cloud.keys import Keys
from skerry_shared import identity


def test_secrets_are_for_their_owner_only(fleet_keys: Keys) -> None:
    assert fleet_keys.folder.stat().st_mode & 0o777 == 0o700
    public = {"authority.pem", "server.pem", "cloud.pem", "ingest-1.pem", "ingest-2.pem"}
    for file in fleet_keys.folder.rglob("*"):
        if file.is_file() and file.name not in public:
            assert file.stat().st_mode & 0o777 == 0o600, file


def test_the_servers_certificate_follows_its_hosts_and_its_age(fleet_keys: Keys) -> None:
    now, hosts = time.time(), ("localhost", "127.0.0.1")
    assert not keys.renew_own(fleet_keys, hosts, 2, now)
    assert keys.renew_own(fleet_keys, ("cloud.example", "10.0.0.1"), 2, now)
    certificate = x509.load_pem_x509_certificate(Path(fleet_keys.tls.certificate).read_bytes())
    assert identity.hosts_of(certificate) == {"cloud.example", "10.0.0.1"}
    certificate.verify_directly_issued_by(fleet_keys.authority.certificate)
    assert keys.renew_own(fleet_keys, ("cloud.example", "10.0.0.1"), 2, now + 380 * 86400)


def test_each_worker_that_may_run_has_an_identity(fleet_keys: Keys) -> None:
    now, hosts = time.time(), ("localhost", "127.0.0.1")
    assert not fleet_keys.worker(3).certificate.exists()
    assert keys.renew_own(fleet_keys, hosts, 3, now)
    certificate = x509.load_pem_x509_certificate(fleet_keys.worker(3).certificate.read_bytes())
    assert identity.common_name(certificate) == "cloud.3"
    certificate.verify_directly_issued_by(fleet_keys.authority.certificate)
