#!/usr/bin/env python3
"""The ZooKeeper service, seen by an independent client: python kazoo (needs `pip install kazoo`).

usage: kazoo_check.py HOST:PORT      Ends with status 0 and "ok", or says what differs.
"""

import socket
import struct
import sys
import threading
import time

from kazoo.client import KazooClient
from kazoo.exceptions import (
    AuthFailedError, BadArgumentsError, BadVersionError, InvalidACLError, NoAuthError,
    NoChildrenForEphemeralsError, NodeExistsError, NoNodeError, NotEmptyError, RolledBackError,
    RuntimeInconsistency,
)
from kazoo.protocol.states import EventType, KazooState
from kazoo.security import make_acl, make_digest_acl, OPEN_ACL_UNSAFE
from kazoo.recipe.election import Election
from kazoo.recipe.lock import Lock


def refused(error, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except error:
        return
    raise AssertionError(f"{call.__name__}{args} was not refused with {error.__name__}")


def connect(hosts, **kwargs):
    client = KazooClient(hosts=hosts, timeout=kwargs.pop("timeout", 6.0), **kwargs)
    client.start(timeout=10)
    return client


def nodes(zk, root):
    path, stat = zk.create(f"{root}/a", b"one", include_data=True, makepath=True)
    assert path == f"{root}/a" and stat.version == 0 and stat.dataLength == 3, stat
    assert stat.czxid == stat.mzxid == stat.pzxid
    data, stat = zk.get(path)
    assert data == b"one"
    assert zk.set(path, b"two!", version=0).version == 1
    refused(BadVersionError, zk.set, path, b"x", version=0)
    refused(NodeExistsError, zk.create, path)
    refused(NoNodeError, zk.get, f"{root}/none")
    refused(NoNodeError, zk.create, f"{root}/none/below")
    assert zk.exists(f"{root}/none") is None
    zk.create(f"{path}/child")
    refused(NotEmptyError, zk.delete, path)
    parent = zk.exists(path)
    assert (parent.numChildren, parent.cversion) == (1, 1), parent
    zk.delete(f"{path}/child")
    parent = zk.exists(path)
    assert (parent.numChildren, parent.cversion) == (0, 2), parent
    refused(BadVersionError, zk.delete, path, version=0)
    zk.delete(path, version=1)
    names = [zk.create(f"{root}/s-", sequence=True) for _ in range(3)]
    assert [int(name[-10:]) for name in names] == [1, 2, 3], names
    children, stat = zk.get_children(root, include_data=True)
    assert sorted(children) == [name.rsplit("/", 1)[1] for name in names]
    assert stat.numChildren == 3
    ephemeral = zk.create(f"{root}/e", ephemeral=True)
    assert zk.exists(ephemeral).ephemeralOwner == zk.client_id[0]
    refused(NoChildrenForEphemeralsError, zk.create, f"{ephemeral}/x")
    refused(BadArgumentsError, zk.delete, "/zookeeper")
    assert zk.sync(root) == root
    assert sorted(zk.get_children("/zookeeper")) == ["config", "quota"]
    assert zk.get("/zookeeper/config")[0] == b""
    zk.create(f"{root}/empty", b"")
    assert zk.get(f"{root}/empty")[0] == b""
    big = b"x" * (1000 * 1000)
    zk.create(f"{root}/big", big)
    assert zk.get(f"{root}/big")[0] == big
    zk.delete(f"{root}/big")


def watches(zk, other, root):
    zk.ensure_path(root)
    events = []
    arrived = threading.Condition()

    def watcher(event):
        with arrived:
            events.append((event.type, event.path))
            arrived.notify_all()

    def expect(*wanted):
        with arrived:
            assert arrived.wait_for(lambda: len(events) >= len(wanted), 5), (events, wanted)
            assert events == list(wanted), (events, wanted)
            events.clear()

    path = f"{root}/w"
    assert zk.exists(path, watch=watcher) is None
    other.create(path)
    expect((EventType.CREATED, path))
    zk.get(path, watch=watcher)
    other.set(path, b"1")
    other.set(path, b"2")
    expect((EventType.CHANGED, path))
    zk.get_children(path, watch=watcher)
    other.create(f"{path}/c")
    other.create(f"{path}/d")
    expect((EventType.CHILD, path))
    other.delete(f"{path}/c")
    other.delete(f"{path}/d")
    zk.get(path, watch=watcher)
    zk.get_children(path, watch=watcher)
    other.delete(path)
    time.sleep(0.2)
    # One packet for the client; kazoo calls both of its watchers, which are one function here.
    with arrived:
        assert set(events) == {(EventType.DELETED, path)}, events
        events.clear()
    other.create(path)
    # An event comes before any reply that shows the change.
    for turn in range(200):
        seen = []
        zk.get(path, watch=lambda event, seen=seen: seen.append(event))
        value = str(turn).encode()
        other.set(path, value)
        while zk.get(path)[0] != value:
            pass
        # kazoo hands events to another thread: let it take the one queued before the reply.
        zk.handler.callback_queue.join() if hasattr(zk.handler.callback_queue, "join") else None
        deadline = time.time() + 2
        while not seen and time.time() < deadline:
            time.sleep(0.001)
        assert len(seen) == 1, turn


def transactions(zk, root):
    zk.ensure_path(root)
    transaction = zk.transaction()
    transaction.create(f"{root}/a", b"1")
    transaction.set_data(f"{root}/a", b"2")
    transaction.check(f"{root}/a", 1)
    transaction.create(f"{root}/a/b")
    results = transaction.commit()
    assert results[0] == f"{root}/a" and results[1].version == 1 and results[2] is True, results
    first, second = zk.exists(f"{root}/a"), zk.exists(f"{root}/a/b")
    assert first.czxid == first.mzxid == second.czxid
    transaction = zk.transaction()
    transaction.delete(f"{root}/a/b")
    transaction.check(f"{root}/a", 7)
    transaction.create(f"{root}/c")
    results = transaction.commit()
    kinds = [type(result) for result in results]
    assert kinds == [RolledBackError, BadVersionError, RuntimeInconsistency], results
    assert zk.exists(f"{root}/a/b") and not zk.exists(f"{root}/c")


def acls(zk, hosts, root):
    zk.ensure_path(root)
    user = make_digest_acl("user", "secret", all=True)
    zk.create(f"{root}/own", b"mine", acl=[user])
    refused(NoAuthError, zk.get, f"{root}/own")
    refused(InvalidACLError, zk.create, f"{root}/bad", acl=[make_acl("auth", "", all=True)])
    refused(InvalidACLError, zk.create, f"{root}/bad", acl=[make_acl("nope", "x", all=True)])
    authed = connect(hosts, auth_data=[("digest", "user:secret")])
    assert authed.get(f"{root}/own")[0] == b"mine"
    assert authed.get_acls(f"{root}/own")[0] == [user]
    authed.create(f"{root}/auth", acl=[make_acl("auth", "", all=True)])
    assert authed.get_acls(f"{root}/auth")[0][0].id.id == user.id.id
    assert authed.set_acls(f"{root}/own", OPEN_ACL_UNSAFE).aversion == 1
    assert zk.get(f"{root}/own")[0] == b"mine"
    zk.create(f"{root}/ip", b"x", acl=[make_acl("ip", "127.0.0.0/8", read=True)])
    assert zk.get(f"{root}/ip")[0] == b"x"
    refused(NoAuthError, zk.set, f"{root}/ip", b"y")
    # To delete a node is a right of its parent.
    zk.delete(f"{root}/auth")
    authed.stop()
    try:
        stranger = connect(hosts)
        stranger.add_auth("martian", "x")
    except AuthFailedError:
        pass
    finally:
        stranger.stop()


def sessions(zk, hosts, root):
    zk.ensure_path(root)
    client = connect(hosts)
    client.create(f"{root}/closed", ephemeral=True)
    client.stop()
    assert zk.exists(f"{root}/closed") is None, "an ephemeral outlived its session"
    client = connect(hosts)
    client.create(f"{root}/kept", ephemeral=True)
    session, fired = client.client_id[0], threading.Event()
    client.get(f"{root}/kept", watch=lambda event: fired.set())
    states = []
    client.add_listener(states.append)
    # The socket goes, the session stays: the client attaches again and sets its watches anew.
    client._connection._socket.shutdown(2)
    deadline = time.time() + 10
    while KazooState.CONNECTED not in states and time.time() < deadline:
        time.sleep(0.01)
    assert client.client_id[0] == session and KazooState.LOST not in states, states
    assert zk.exists(f"{root}/kept")
    zk.set(f"{root}/kept", b"new")
    assert fired.wait(5), "the watch was lost with the connection"
    client.stop()
    # Nobody pings: the session expires, and its ephemeral and its connection go.
    host, port = hosts.rsplit(":", 1)
    silent = socket.create_connection((host, int(port)))
    send(silent, struct.pack(">iqiqi16s?", 0, 0, 4000, 0, 16, bytes(16), False))
    receive(silent)
    path, anyone = f"{root}/silent".encode(), struct.pack(">iii5si6s", 1, 31, 5, b"world", 6, b"anyone")
    send(silent, struct.pack(f">iii{len(path)}si", 1, 1, len(path), path, -1) + anyone + struct.pack(">i", 1))
    assert struct.unpack(">iqi", receive(silent)[:16])[2] == 0
    gone = threading.Event()
    assert zk.exists(f"{root}/silent", watch=lambda event: gone.set())
    started = time.time()
    assert gone.wait(15), "the session of a silent client did not expire"
    assert time.time() - started > 3, "the session expired too early"
    assert silent.recv(1) == b"", "the connection outlived its session"


def send(connection, packet):
    connection.sendall(struct.pack(">i", len(packet)) + packet)


def receive(connection):
    wanted, packet = 4, b""
    while len(packet) < wanted:
        packet += connection.recv(65536)
        wanted = 4 + struct.unpack(">i", packet[:4])[0] if len(packet) >= 4 else 4
    return packet[4:]


def recipes(zk, other, root):
    lock, second = Lock(zk, f"{root}/lock", "one"), Lock(other, f"{root}/lock", "two")
    with lock:
        assert not second.acquire(blocking=False)
    assert second.acquire(timeout=5)
    second.release()
    led = threading.Event()
    Election(zk, f"{root}/election").run(led.set)
    assert led.is_set()


def main():
    hosts = sys.argv[1]
    zk, other = connect(hosts), connect(hosts)
    root = f"/kazoo-{int(time.time() * 1000)}"
    nodes(zk, f"{root}/nodes")
    watches(zk, other, f"{root}/watches")
    transactions(zk, f"{root}/transactions")
    acls(zk, hosts, f"{root}/acls")
    sessions(zk, hosts, f"{root}/sessions")
    recipes(zk, other, f"{root}/recipes")
    assert other.server_version()[:2] == (3, 8), other.server_version()
    zk.delete(root, recursive=True)
    other.stop()
    zk.stop()
    print("ok")


if __name__ == "__main__":
    main()
