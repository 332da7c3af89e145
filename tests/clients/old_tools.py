"""The tools of 0.10.2, 1.1 and 2.8: through ZooKeeper, and where they can, through the broker.

Each test runs on Ringlog and on Apache Kafka 3.9.1, and what the tools printed there is compared.
"""
import json
import re

from jvm import Failed, Tools, run
from scene import BROKER_ID, consume, described, difference, has, normal, produce, same, shell, until

NAME = re.compile(r"\b(topics|configs|console|groups|old|new|moves)-\d+-\d+")
CLIENT = re.compile(r"(consumer-|\S+_\S+-\d{13}-)\S+")


class Told:
    """Tools, and what they printed of one side: of a command that is repeated until it is right, the last."""

    def __init__(self, tools):
        self.tools, self.version, self.commands = tools, tools.version, []

    def run(self, tool, *words, stdin=""):
        said = self.tools.run(tool, *words, stdin=stdin)
        words = [str(word) for word in words]
        if self.commands and self.commands[-1][:2] == (tool, words):
            self.commands.pop()
        self.commands.append((tool, words, said))
        return said

    expect = Tools.expect


def comparable(said, side):
    """What does not depend on the order of sets, on the partition a producer begins with, or on time."""
    if "kafka-console-consumer" in said.command or "zookeeper-shell" in said.command:
        return []  # the tests look at all that was consumed; the shell has a comparison of its own
    lines = []
    for line in normal(said.output.replace(side.zookeeper, "ZOOKEEPER"), side):
        line = CLIENT.sub("CLIENT", NAME.sub("NAME", line))
        if "kafka-consumer-groups --zookeeper" in said.command:
            line = re.sub(r"\b3[34]\b", "A THIRD", line)
        if not line.startswith(("WATCHER", "WatchedEvent")):  # of a shell that ends meanwhile
            lines.append(" ".join(sorted(re.split(r"[][{}(), ]+", line))))
    return sorted(lines)


def compared(test, tools, ringlog, oracle, place=None):
    """Runs the test on both sides; where it holds on both, the texts are to be the same, too."""
    told = []
    for side in (ringlog, oracle):
        told.append(Told(tools))
        words = [[place, side.zookeeper if place == "--zookeeper" else side.bootstrap]] if place else []
        test(told[-1], *words, side)
    ours, theirs = (side.commands for side in told)
    same("the commands", [tool for tool, _, _ in ours], [tool for tool, _, _ in theirs])
    pairs = [(our, comparable(our, ringlog), their, comparable(their, oracle))
             for (_, _, our), (_, _, their) in zip(ours, theirs)]
    found = [difference(*pair) for pair in pairs if (pair[0].code, pair[1]) != (pair[2].code, pair[3])]
    if found:
        raise Failed(f"{len(found)} differences from Apache Kafka 3.9.1\n  " + "\n  ".join(found))


def old_topics(tools, place, broker):
    """Create, list, describe, alter and delete, through ZooKeeper or through the broker."""
    topic = run.unique("topics")
    call = lambda *words, **options: tools.expect("kafka-topics", *place, *words, **options)
    has(call("--create", "--topic", topic, "--partitions", 2, "--replication-factor", 1, "--config",
             "retention.ms=86400000"), "Created topic", topic)
    again = call("--create", "--topic", topic, "--partitions", 2, "--replication-factor", 1, code=1)
    has(again, "already exists")
    if topic not in call("--list").lines:
        raise Failed(f"{topic} is not listed")
    call("--alter", "--topic", topic, "--partitions", 3)
    until("three partitions", lambda: "Leader: none" not in call("--describe", "--topic", topic).output)
    described = call("--describe", "--topic", topic).output
    same("Leaders", re.findall(r"Partition: (\d+)\tLeader: (\d+)\tReplicas: (\d+)\tIsr: (\d+)", described),
         [(str(partition), *[str(BROKER_ID)] * 3) for partition in range(3)])
    if not re.search(r"PartitionCount: ?3\tReplicationFactor: ?1\tConfigs: ?retention.ms=86400000", described):
        raise Failed(described)
    call("--delete", "--topic", topic)
    until("the topic is gone", lambda: topic not in call("--list").output)


def old_configs(tools, place, broker):
    """A setting of a topic, and that the broker acts on it."""
    topic, entity = run.unique("configs"), ["--entity-type", "topics", "--entity-name"]
    call = lambda *words, **options: tools.expect("kafka-configs", *place, *words, **options)
    tools.expect("kafka-topics", *place, "--create", "--topic", topic, "--partitions", 1, "--replication-factor", 1)
    has(call("--alter", *entity, topic, "--add-config", "max.message.bytes=2000,flush.ms=1000"), "pdat")
    has(call("--describe", *entity, topic), "max.message.bytes=2000", "flush.ms=1000")

    def refused():
        said = produce(tools, broker.bootstrap, topic, "x" * 4000)
        return "RecordTooLarge" in said.errors
    until("a record of 4000 bytes is refused", refused)
    call("--alter", *entity, topic, "--delete-config", "max.message.bytes")
    left = has(call("--describe", *entity, topic), "flush.ms=1000")
    if "max.message.bytes" in left.output:
        raise Failed(f"still there: {left}")
    until("a record of 4000 bytes is taken", lambda: not refused())
    said = tools.run("kafka-configs", *place, "--alter", *entity, topic, "--add-config", "no.such.setting=1")
    if "no.such.setting" not in said.output + said.errors:
        raise Failed(f"an unknown setting was taken: {said}")


def old_console(tools, broker):
    """The console producer, the new consumer, and the old one, which keeps its offsets in ZooKeeper."""
    topic, group, zookeeper = run.unique("console"), run.unique("old"), ["--zookeeper", broker.zookeeper]
    tools.expect("kafka-topics", *zookeeper, "--create", "--topic", topic, "--partitions", 3, "--replication-factor", 1)
    numbers = [f"{number:03}" for number in range(100)]
    produce(tools, broker.bootstrap, topic, *numbers[:60])
    same("new consumer", consume(tools, ["--bootstrap-server", broker.bootstrap], topic, 60, "--from-beginning"),
         numbers[:60])
    properties = broker.home / f"{group}.properties"
    properties.write_text(f"group.id={group}\nauto.commit.interval.ms=100\n")
    config = ["--consumer.config", properties]
    first = consume(tools, zookeeper, topic, 40, "--from-beginning", *config)
    second = consume(tools, zookeeper, topic, 20, *config)
    same("old consumer, twice", sorted(first + second), numbers[:60])
    produce(tools, broker.bootstrap, topic, *numbers[60:])
    same("old consumer, again", consume(tools, zookeeper, topic, 40, *config), numbers[60:])
    has(tools.expect("kafka-consumer-groups", *zookeeper, "--list"), group)
    rows = described(tools.expect("kafka-consumer-groups", *zookeeper, "--describe", "--group", group), topic)
    same("rows (offset, end, lag) of the old group", sorted(row[2:5] for row in rows)[0][2], "0")
    same("offsets of the old group", sum(int(row[2]) for row in rows), 100)
    has(shell(tools, broker.zookeeper, f"get /consumers/{group}/offsets/{topic}/{rows[0][1]}"), rows[0][2])
    has(tools.expect("kafka-consumer-groups", *zookeeper, "--delete", "--group", group), "Deleted all")
    if group in tools.expect("kafka-consumer-groups", *zookeeper, "--list").lines:
        raise Failed(f"{group} is still listed")


def old_groups(tools, broker):
    """ConsumerGroupCommand on groups of the new consumer."""
    topic, group, place = run.unique("groups"), run.unique("new"), ["--bootstrap-server", broker.bootstrap]
    tools.expect("kafka-topics", "--zookeeper", broker.zookeeper, "--create", "--topic", topic, "--partitions", 1,
                 "--replication-factor", 1)
    produce(tools, broker.bootstrap, topic, *"abc")
    properties = broker.home / f"{group}.properties"
    properties.write_text(f"group.id={group}\n")
    same("consumed", consume(tools, place, topic, 3, "--from-beginning", "--consumer.config", properties), list("abc"))
    produce(tools, broker.bootstrap, topic, *"de")
    new = ["--new-consumer"] if tools.version.startswith("0.") else []
    has(tools.expect("kafka-consumer-groups", *new, *place, "--list"), group)
    rows = described(tools.expect("kafka-consumer-groups", *new, *place, "--describe", "--group", group), topic)
    same("topic, partition, offset, end, lag", [row[:5] for row in rows], [[topic, "0", "3", "5", "2"]])
    offsets = tools.expect("kafka-get-offsets", "--broker-list", broker.bootstrap, "--topic", topic, "--time", "-1")
    same("end offsets", offsets.lines, [f"{topic}:0:5"])
    if not tools.version.startswith("0."):
        tools.expect("kafka-consumer-groups", *place, "--group", group, "--topic", topic, "--reset-offsets",
                     "--to-earliest", "--execute")
        rows = described(tools.expect("kafka-consumer-groups", *place, "--describe", "--group", group), topic)
        same("after the reset", rows[0][2], "0")
        has(tools.expect("kafka-consumer-groups", *place, "--delete", "--group", group), "success")


def old_moves(tools, place, broker):
    """A reassignment and an election of preferred leaders, by their nodes: nothing is to be moved, and it is done."""
    topic = run.unique("moves")
    tools.expect("kafka-topics", *place, "--create", "--topic", topic, "--partitions", 2, "--replication-factor", 1)
    file = broker.home / f"{topic}.json"
    partitions = [{"topic": topic, "partition": partition, "replicas": [BROKER_ID]} for partition in range(2)]
    file.write_text(json.dumps({"version": 1, "partitions": partitions}))
    call = lambda word: tools.run("kafka-reassign-partitions", *place, "--reassignment-json-file", file, word)
    has(call("--execute"), "uccessfully started")
    until("it is done", lambda: "in progress" not in call("--verify").output)
    has(call("--verify"), f"{topic}", "complete")
    until("no node is left", lambda: "reassign_partitions" not in shell(tools, broker.zookeeper, "ls /admin").output)
    tools.expect("kafka-preferred-replica-election", *place)
    until("no node is left", lambda: "preferred" not in shell(tools, broker.zookeeper, "ls /admin").output)


def old_versions(tools, broker):
    has(tools.expect("kafka-broker-api-versions", "--bootstrap-server", broker.bootstrap), f"(id: {BROKER_ID} rack:",
        "Produce(0):", "CreateTopics(19):")


def old(version, ringlog, oracle, places):
    tools = Tools(version)
    on_both = lambda test, place=None: lambda: compared(test, tools, ringlog, oracle, place)
    for place in places:
        yield f"kafka-topics {place}", on_both(old_topics, place)
        yield f"kafka-configs {place}", on_both(old_configs, place)
    yield "kafka-reassign-partitions, kafka-preferred-replica-election", on_both(old_moves, "--zookeeper")
    if not version.startswith("2."):
        yield "console clients, offsets in ZooKeeper", on_both(old_console)
    yield "kafka-consumer-groups, kafka-get-offsets", on_both(old_groups)
    # It lists the versions of each API, which differ: Ringlog has fewer APIs.
    yield "kafka-broker-api-versions", lambda: old_versions(tools, ringlog)
    yield None, tools.stop
