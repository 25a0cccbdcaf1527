"""Load: 1,000 downloads by 50 parallel terminals, and the record of them."""

import collections
import concurrent.futures

from cryptography.hazmat.primitives import serialization

import pos

TERMINALS = 50
ROUNDS = 20


def enrol_many(server, keys, count):
    all_keys = {f"M-{i:03}": keys(i) for i in range(count)}
    server.import_keys(all_keys)
    return [pos.Terminal(sn, key, server.root) for sn, key in all_keys.items()]


def in_parallel(work, items):
    with concurrent.futures.ThreadPoolExecutor(len(items)) as pool:
        return list(pool.map(work, items))


def make_house(make_server, **options):
    server = make_server(start=False, **options)
    server.configure("tmk", redelivery="always")
    server.configure("limits", handshake_seconds=120)
    return server.start()


def assert_recorded(server, terminals, downloads):
    """Every download is in the registry and in the audit log, and the log is whole."""
    for terminal in terminals:
        tmk = server.show(terminal.sn)["tmk"]
        assert (tmk["kcv"], tmk["status"]) == (terminal.kcv, "confirmed")
    events = collections.Counter(record["event"] for record in server.audit())
    assert events["delivered"] == downloads
    assert events["confirmed"] == downloads
    assert server.ctl("audit", "verify").returncode == 0


def test_thousand_downloads(make_server, keys):
    server = make_house(make_server, tmk_store="wrapped")
    terminals = enrol_many(server, keys, TERMINALS)

    def download_often(terminal):
        kcvs = set()
        for _ in range(ROUNDS):
            terminal.kcv = None
            server.download(terminal, timeout=120)
            kcvs.add(terminal.kcv)
        return kcvs

    kcvs = in_parallel(download_often, terminals)
    assert all(len(of_one) == 1 for of_one in kcvs)
    assert_recorded(server, terminals, TERMINALS * ROUNDS)


def test_parallel_downloads(make_server, keys):
    """50 at once, from either store; also what the ThreadSanitizer build is run with."""
    for store in ("token", "wrapped"):
        server = make_house(make_server, tmk_store=store)
        terminals = enrol_many(server, keys, TERMINALS)
        in_parallel(lambda terminal: server.download(terminal, timeout=120), terminals)
        assert_recorded(server, terminals, TERMINALS)
        server.stop()


def test_parallel_downloads_of_one_terminal(make_server, keys):
    """Each of many simultaneous handshakes of one SN is complete by itself."""
    server = make_house(make_server)
    (first,) = enrol_many(server, keys, 1)
    others = [pos.Terminal(first.sn, first.tkp_pr, server.root) for _ in range(10)]
    in_parallel(lambda terminal: server.download(terminal, timeout=120), others)
    assert len({terminal.tmk for terminal in others}) == 1
    assert_recorded(server, others, len(others))


def test_parallel_downloads_until_confirmed(make_server, keys):
    """With the default policy some of them come too late, and none gets another TMK."""
    server = make_server()
    (first,) = enrol_many(server, keys, 1)
    others = [pos.Terminal(first.sn, first.tkp_pr, server.root) for _ in range(10)]

    def try_download(terminal):
        try:
            return server.download(terminal, timeout=120).tmk
        except pos.Failed as failed:
            assert failed.code == "rejected"
            return None

    tmks = set(in_parallel(try_download, others)) - {None}
    assert len(tmks) == 1
    assert server.tmk_status(first.sn) == "confirmed"


def test_changes_beside_downloads(make_server, keys):
    """The operator imports, disables and lists while terminals download."""
    server = make_house(make_server)
    terminals = enrol_many(server, keys, 10)

    def change(number):
        if number < len(terminals):
            return server.download(terminals[number], timeout=120).kcv
        sn = f"X-{number}"
        server.ctl_ok("terminal", "add", sn, "--key", write_key(server, sn, keys(number)))
        server.ctl_ok("terminal", "disable", sn)
        return server.show(sn)["state"]

    results = in_parallel(change, list(range(14)))
    assert results[len(terminals) :] == ["disabled"] * 4
    assert_recorded(server, terminals, len(terminals))


def write_key(server, sn, key):
    path = server.dir.parent / f"{sn}.pem"
    path.write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    )
    return path
