"""Ringlog beside Apache's servers: on real ZooKeepers, and its ZooKeeper service under a real Apache Kafka."""
import difflib
import pathlib
import re

import jvm  # beside this file
from jvm import Failed, Tools
from scene import BROKER_ID, Broker, Service, end, has, produce, same, shell, until

SCRIPT = """create /stock one
create /stock/a two
create -s /stock/n- x
create -s /stock/n- y
create -e /stock/e z
ls /stock
ls -R /stock
get /stock
get -s /stock/e
set /stock three
set -v 7 /stock four
get /stock
stat /stock
getAcl /stock
setAcl /stock world:anyone:cdrwa
create /stock again
delete /stock
delete /nothing
get /nothing
deleteall /stock
ls /
whoami
getEphemerals
quit
"""
SHELL_VARYING = [(re.compile(r"Zxid = 0x[0-9a-f]+"), "Zxid = ZXID"), (re.compile(r"ime = .*"), "ime = TIME"),
                 (re.compile(r"ephemeralOwner = 0x[0-9a-f]{2,}"), "ephemeralOwner = SESSION")]


def shell_script(tools, port):
    said = tools.run("zookeeper-shell", "-server", f"127.0.0.1:{port}", stdin=SCRIPT)
    lines = [f"exit code {said.code}"]
    for line in (said.output + said.errors).replace(str(port), "PORT").splitlines():
        for pattern, name in SHELL_VARYING:
            line = pattern.sub(name, line)
        if line and not line.startswith("Watche") and not line.startswith("WATCHE"):  # events come in between
            lines.append(line)
    return lines


def zookeeper_shell(tools, service, real):
    """The stock shell says the same of Ringlog's ZooKeeper service and of Apache ZooKeeper."""
    ours, theirs = shell_script(tools, service), shell_script(tools, real)
    if ours != theirs:
        raise Failed("\n".join(difflib.unified_diff(theirs, ours, "Apache ZooKeeper", "Ringlog", lineterm="")))
    if "Created /stock/n-0000000001" not in ours:
        raise Failed(f"both did nothing: {ours}")


def write_and_read(tools, bootstrap, topic, count):
    """`count` more records, then all are there; the topic is made if it is not."""
    tools.expect("kafka-topics", "--bootstrap-server", bootstrap, "--create", "--if-not-exists", "--topic", topic,
                 "--partitions", 1, "--replication-factor", 1)
    end = end_offset(tools, bootstrap, topic)
    produce(tools, bootstrap, topic, *range(end, end + count))
    read_all(tools, bootstrap, topic, end + count)


def end_offset(tools, bootstrap, topic):
    said = tools.expect("kafka-get-offsets", "--bootstrap-server", bootstrap, "--topic", topic)
    return int(said.lines[-1].rsplit(":", 1)[1])


def read_all(tools, bootstrap, topic, count):
    found = tools.expect("kafka-console-consumer", "--bootstrap-server", bootstrap, "--topic", topic,
                         "--from-beginning", "--max-messages", count, "--timeout-ms", 100000).lines
    same(f"records of {topic}", found, [str(number) for number in range(count)])


def on_one_zookeeper(binary, tools, home):
    """With a chroot; kill -9 of the broker, then of ZooKeeper: nothing is lost, and it goes on by itself."""
    servers, ports = jvm.zookeepers(home, 1)
    broker = None
    try:
        broker = Broker(binary, f"zookeeper.connect=127.0.0.1:{ports[0]}/ring/log")
        write_and_read(tools, broker.bootstrap, "first", 10)
        connect = f"127.0.0.1:{ports[0]}"
        has(shell(tools, connect, "ls /ring/log/brokers/topics"), "first]")
        broker.kill()
        broker.start()
        read_all(tools, broker.bootstrap, "first", 10)
        write_and_read(tools, broker.bootstrap, "second", 10)
        servers[0].kill()
        produce(tools, broker.bootstrap, "first", *range(10, 20))
        servers[0].start()
        ids = f"{connect}/ring/log", "ls /brokers/ids"
        until("the broker is registered", lambda: f"[{BROKER_ID}]" in shell(tools, *ids).output)
        read_all(tools, broker.bootstrap, "first", 20)
        write_and_read(tools, broker.bootstrap, "third", 10)
        broker.stop()
    finally:
        end([broker and broker.process, *[server.process for server in servers]])


def on_three_zookeepers(binary, tools, home):
    """The ensemble's leader is killed, then the broker; the two that are left are enough."""
    servers, ports = jvm.zookeepers(home, 3, jvm.debian_zookeeper())
    broker = None
    try:
        broker = Broker(binary, "zookeeper.connect=" + ",".join(f"127.0.0.1:{port}" for port in ports))
        write_and_read(tools, broker.bootstrap, "first", 10)
        leader = next(index for index, port in enumerate(ports) if jvm.mode(port) == "leader")
        servers[leader].kill()
        until("a new leader", lambda: "leader" in [jvm.mode(port) for port in ports])
        write_and_read(tools, broker.bootstrap, "first", 10)
        write_and_read(tools, broker.bootstrap, "second", 10)
        broker.kill()
        broker.start()
        read_all(tools, broker.bootstrap, "first", 20)
        write_and_read(tools, broker.bootstrap, "third", 10)
        broker.stop()
    finally:
        end([broker and broker.process, *[server.process for server in servers]])


def apache_on_our_zookeeper(binary, tools, home):
    """Apache Kafka 3.9.1 on `ringlog zookeeper`: topics, records, and both killed."""
    service = Service(binary, home)
    connect = f"127.0.0.1:{service.port}/apache"
    apache, bootstrap = jvm.kafka_on_zookeeper(home, connect, 7)
    try:
        service.start()
        apache.start()
        write_and_read(tools, bootstrap, "first", 10)
        service.process.kill()
        service.process.wait()
        service.start()
        write_and_read(tools, bootstrap, "second", 10)
        apache.kill()
        service.process.kill()
        service.process.wait()
        service.start()
        # Apache Kafka refuses to start as long as the session of its killed self lives.
        ids = connect, "ls /brokers/ids"
        until("the killed broker's session has expired", lambda: "[]" in shell(tools, *ids).output)
        apache.start()
        read_all(tools, bootstrap, "first", 10)
        write_and_read(tools, bootstrap, "second", 10)
        write_and_read(tools, bootstrap, "third", 10)
    except Failed as error:
        raise Failed(f"{error}\n{apache.report()}\n{service.log.read_text()[-3000:]}") from None
    finally:
        end([apache.process, service.process])


def beside(binary, home):
    tools = Tools("3.9.1")

    def place(test, name):
        directory = pathlib.Path(home) / name
        directory.mkdir()
        test(binary, tools, directory)

    def shell():
        directory = pathlib.Path(home) / "shell"
        directory.mkdir()
        service = Service(binary, directory)
        servers, ports = jvm.zookeepers(directory, 1)
        try:
            service.start()
            zookeeper_shell(tools, service.port, ports[0])
        finally:
            end([service.process, *[server.process for server in servers]])
    yield "zookeeper-shell on Ringlog's service as on ZooKeeper 3.8", shell
    yield "Ringlog on Debian's ZooKeeper 3.8", lambda: place(on_one_zookeeper, "one")
    yield "Ringlog on an ensemble of three of Debian's ZooKeepers", lambda: place(on_three_zookeepers, "three")
    yield "Apache Kafka 3.9.1 on Ringlog's ZooKeeper service", lambda: place(apache_on_our_zookeeper, "apache")
    yield None, tools.stop
