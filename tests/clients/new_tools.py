"""The tools of 3.9 and 4: what they print of Ringlog is compared with what they print of Apache Kafka 3.9.1."""
import json
import pathlib
import re
import threading

from jvm import Failed, Tools, run
import scene
from scene import BROKER_ID, PATIENT, UUID, described, difference, end, has, same, until

BROKER_CONFIGS = threading.Lock()  # the versions share the brokers


class Sides:
    """Runs each command on Ringlog and on Apache Kafka, and collects what differs."""

    def __init__(self, version, ringlog, oracle):
        self.tools, self.ringlog, self.oracle, self.differences = Tools(version), ringlog, oracle, []
        self.group_words = []

    def run(self, tool, *words, stdin="", place="--bootstrap-server", normal=None, code=None):
        """What Ringlog's side said; the words may hold LOGS, and functions of a side."""
        results = []
        for side in (self.ringlog, self.oracle):
            mine = [word(side) if callable(word) else str(word).replace("LOGS", str(side.logs)) for word in words]
            said = self.tools.run(tool, *([place, side.bootstrap] if place else []), *mine, stdin=stdin)
            results.append((said, said.code, (normal or scene.normal)(said.output, side)))
        (ours, our_code, our_text), (theirs, their_code, their_text) = results
        if (our_code, our_text) != (their_code, their_text):
            self.differences.append(difference(ours, our_text, theirs, their_text))
        elif code is not None and our_code != code:
            self.differences.append(f"both ended with another code than {code}: {ours}\n{theirs}")
        return ours

    def until(self, what, holds, tool, *words):
        """Waits for it on both sides: a broker hears of changes from its controller a little later."""
        for side in (self.ringlog, self.oracle):
            until(what, lambda: holds(self.tools.run(tool, "--bootstrap-server", side.bootstrap, *words).lines))

    def topic(self, name, partitions=1, *words):
        topic = run.unique(name)
        self.run("kafka-topics", "--create", "--topic", topic, "--partitions", partitions, "--replication-factor", 1,
                 *words, code=0)
        return topic

    def produce(self, topic, *lines):
        text = "".join(f"{line}\n" for line in lines)
        self.run("kafka-console-producer", "--topic", topic, *PATIENT, stdin=text, code=0)

    def consume(self, topic, count, *words):
        return self.run("kafka-console-consumer", "--topic", topic, "--max-messages", count, "--timeout-ms", 100000,
                        *words, code=0)

    def verdict(self):
        found, self.differences = self.differences, []
        if found:
            raise Failed(f"{len(found)} differences from Apache Kafka 3.9.1\n  " + "\n  ".join(found))


def topics(sides):
    call = lambda *words, **options: sides.run("kafka-topics", *words, **options)
    topic, other, one = run.unique("topics"), run.unique("topics"), ["--replication-factor", 1]
    has(call("--create", "--topic", topic, "--partitions", 3, *one, "--config", "retention.ms=86400000",
             "--config", "cleanup.policy=delete", code=0), f"Created topic {topic}.")
    call("--create", "--topic", topic, "--partitions", 3, code=1)
    call("--create", "--topic", topic, "--if-not-exists", code=0)
    call("--create", "--topic", other, code=0)
    call("--create", "--topic", "bad name", "--partitions", 1, code=1)
    call("--create", "--topic", run.unique("wide"), "--partitions", 1, "--replication-factor", 2, code=1)
    call("--create", "--topic", "none", "--partitions", 0, code=1)
    call("--create", "--topic", "set", "--partitions", 1, "--config", "retention.ms=soon", code=1)
    call("--create", "--topic", "set", "--partitions", 1, "--config", "no.such.setting=1", code=1)
    call("--create", "--topic", run.unique("assigned"), "--replica-assignment", f"{BROKER_ID},{BROKER_ID}", code=0)
    call("--list", "--topic", f"{topic}|{other}", code=0)
    has(call("--describe", "--topic", topic, code=0), "PartitionCount: 3", "cleanup.policy=delete")
    for filter in ["--topics-with-overrides", "--under-replicated-partitions", "--unavailable-partitions",
                   "--at-min-isr-partitions", "--under-min-isr-partitions"]:
        call("--describe", "--topic", topic, filter, code=0)
    call("--describe", "--topic", "no-such-topic", code=1)
    call("--describe", "--topic", "no-such-topic", "--if-exists", code=0)
    call("--alter", "--topic", topic, "--partitions", 5, code=0)
    call("--alter", "--topic", topic, "--partitions", 2, code=1)
    call("--alter", "--topic", topic, "--partitions", 5, code=1)
    has(call("--describe", "--topic", topic, code=0), "PartitionCount: 5")
    call("--delete", "--topic", other, code=0)
    call("--delete", "--topic", other, code=1)
    call("--delete", "--topic", other, "--if-exists", code=0)
    sides.until("the topic is gone", lambda lines: topic in lines and other not in lines, "kafka-topics", "--list",
                "--exclude-internal")


def configs(sides):
    call = lambda *words, **options: sides.run("kafka-configs", *words, **options)
    topic = sides.topic("configs", 1, "--config", "segment.bytes=1048576")
    entity = ["--entity-type", "topics", "--entity-name", topic]
    call("--describe", *entity, code=0)
    call("--alter", *entity, "--add-config", "retention.ms=1000000,max.message.bytes=2000", code=0)
    has(call("--describe", *entity, code=0), "retention.ms=1000000", "max.message.bytes=2000", "segment.bytes=1048576")
    call("--describe", *entity, "--all", code=0)
    call("--alter", *entity, "--delete-config", "retention.ms", code=0)
    call("--alter", *entity, "--add-config", "cleanup.policy=[compact,delete]", code=0)
    call("--describe", "--topic", topic, code=0)
    call("--alter", *entity, "--add-config", "retention.ms=soon", code=1)
    call("--alter", *entity, "--add-config", "no.such.setting=1", code=1)
    call("--alter", *entity, "--delete-config", "retention.ms")
    call("--describe", "--entity-type", "topics", "--entity-name", "no-such-topic")
    call("--alter", "--entity-type", "topics", "--entity-name", "no-such-topic", "--add-config", "retention.ms=1")
    with BROKER_CONFIGS:
        broker_configs(sides, "log.retention.bytes")


def broker_configs(sides, name):
    broker = ["--entity-type", "brokers", "--entity-name", BROKER_ID]
    every = ["--entity-type", "brokers", "--entity-default"]
    alter = lambda *words, code=0: sides.run("kafka-configs", "--alter", *words, code=code)

    def settled(who, there):
        describe = ["kafka-configs", "--describe", *who]
        sides.until(f"{name} {'is' if there else 'is not'} there",
                    lambda lines: (name in "".join(lines)) == there, *describe)
        sides.run(*describe, code=0)
    alter(*broker, "--add-config", f"{name}=900000")
    settled(broker, True)
    alter(*every, "--add-config", f"{name}=800000")
    settled(every, True)
    settled(broker, True)
    alter(*broker, "--delete-config", name)
    settled(broker, False)
    alter(*every, "--delete-config", name)
    settled(every, False)
    settled(broker, False)
    alter(*broker, "--add-config", "log.dirs=/elsewhere", code=1)
    alter(*broker, "--add-config", f"{name}=soon", code=1)


def console(sides):
    topic = sides.topic("console")
    text = "".join(f"h:{number}\tkey-{number}\tvalue-{number}\n" for number in range(10))
    sides.run("kafka-console-producer", "--topic", topic, "--property", "parse.key=true", "--property",
              "parse.headers=true", "--compression-codec", "lz4", "--request-required-acks", "all", *PATIENT, stdin=text,
              code=0)
    wanted = [word for name in ("key", "partition", "offset", "headers") for word in
              ("--property", f"print.{name}=true")]
    has(sides.consume(topic, 10, "--from-beginning", *wanted), "Offset:9\th:9\tkey-9\tvalue-9")
    sides.produce(topic, "after")
    same("from an offset", sides.consume(topic, 4, "--partition", 0, "--offset", 7).lines,
         ["value-7", "value-8", "value-9", "after"])
    same("latest but two", sides.consume(topic, 1, "--partition", 0, "--offset", 10).lines, ["after"])
    silence = lambda text, side: None  # how much it read within the time says nothing
    sides.run("kafka-console-consumer", "--topic", topic, "--from-beginning", "--timeout-ms", 500,
              normal=silence, code=0)
    sides.run("kafka-console-consumer", "--topic", "no such", "--timeout-ms", 500)


def groups(sides):
    call = lambda *words, **options: sides.run("kafka-consumer-groups", *words, **options)
    topic, group, gone = sides.topic("groups", 2), run.unique("group"), run.unique("group")
    keyed(sides, topic, *[f"{number}:{number}" for number in range(20)])
    for name in (group, gone):
        same("consumed", len(sides.consume(topic, 20, "--from-beginning", "--group", name).lines), 20)
    here = ["--group", group, "--topic", topic]

    def reset(*words, **options):
        call(*here, "--reset-offsets", *words, **options)
        return sides.run("kafka-consumer-groups", "--describe", "--group", group, code=0)

    mine = lambda text, side: [line for line in scene.normal(text, side) if re.match(rf"GROUP|{group}|{gone}", line)]
    has(call("--list", normal=mine, code=0), group, gone)
    call("--list", "--state", normal=mine, code=0)
    call("--describe", "--group", group, code=0)
    call("--describe", "--group", group, "--members", code=0)
    call("--describe", "--group", group, "--members", "--verbose", code=0)
    call("--describe", "--group", group, "--state", code=0)
    call("--describe", "--group", "no-such-group")
    rows = described(reset("--to-earliest", "--dry-run", code=0), topic)
    same("a dry run changes nothing", sum(int(row[4]) for row in rows), 0)
    rows = described(reset("--to-earliest", "--execute", code=0), topic)
    same("lag after --to-earliest", sum(int(row[4]) for row in rows), 20)
    rows = described(reset("--shift-by", 3, "--execute", code=0), topic)
    same("lag after --shift-by", sum(int(row[4]) for row in rows), 14)
    reset("--shift-by", -1000, "--execute", code=0)
    reset("--to-offset", 2, "--execute", code=0)
    reset("--to-latest", "--execute", code=0)
    rows = described(reset("--to-datetime", "2000-01-01T00:00:00.000", "--execute", code=0), topic)
    same("lag after --to-datetime in the past", sum(int(row[4]) for row in rows), 20)
    reset("--to-datetime", "2100-01-01T00:00:00.000", "--execute", code=0)
    reset("--by-duration", "P1D", "--execute", code=0)
    reset("--to-current", "--execute", code=0)
    call("--group", group, "--all-topics", "--reset-offsets", "--to-earliest", "--export", "--dry-run", code=0)
    call("--group", group, "--topic", f"{topic}:1", "--delete-offsets", code=0)
    same("partitions left", [row[1] for row in described(call("--describe", "--group", group), topic)], ["0"])
    call("--group", group, "--topic", "no-such-topic", "--delete-offsets")
    call("--delete", "--group", gone, code=0)
    call("--delete", "--group", "no-such-group")
    if gone in call("--list", normal=mine).lines:
        raise Failed(f"{gone} was deleted and is listed")


def members(sides):
    """A group with a consumer in it: what is told of it, and what is refused."""
    topic, group = sides.topic("members", 3), run.unique("members")
    call = lambda *words, **options: sides.run("kafka-consumer-groups", "--group", group, *words, **options)
    consumers = [sides.tools.spawn("kafka-console-consumer", "--bootstrap-server", side.bootstrap, "--topic", topic,
                                   "--group", group, "--consumer-property", "auto.commit.interval.ms=100")
                 for side in (sides.ringlog, sides.oracle)]
    try:
        sides.until("all is committed", lambda lines: [line.split()[3] for line in lines if group in line] == ["0"] * 3,
                    "kafka-consumer-groups", "--describe", "--group", group)
        same("partitions with a member", len(described(call("--describe", code=0), topic)), 3)
        call("--describe", "--members", code=0)
        has(call("--describe", "--members", "--verbose", code=0), "0,1,2")
        call("--describe", "--state", code=0)
        call("--reset-offsets", "--to-earliest", "--topic", topic, "--execute")
        call("--delete-offsets", "--topic", topic)
        has(call("--delete"), "not empty")
    finally:
        end(consumers)


def keyed(sides, topic, *lines, codec="none"):
    """Lines `key:value`: each key has its partition."""
    sides.run("kafka-console-producer", "--topic", topic, "--compression-codec", codec, "--property", "parse.key=true",
              "--property", "key.separator=:", *PATIENT, stdin="".join(f"{line}\n" for line in lines), code=0)


def offsets(sides):
    topic = sides.topic("offsets", 2)
    keyed(sides, topic, *[f"{number}:{number}" for number in range(20)])
    call = lambda *words, **options: sides.run("kafka-get-offsets", *words, **options)
    ends = call("--topic", topic, code=0).lines
    same("records", sum(int(line.rsplit(":", 1)[1]) for line in ends), 20)
    for when in [-1, -2, -4, -5, "latest", "earliest", 0, 4102444800000]:
        call("--topic", topic, "--time", when)
    later = sides.topic("offsets")
    for line in "abc":  # a command each, so that their times differ
        sides.produce(later, line)
    for when in [-3, "max-timestamp"]:
        same("the latest record", call("--topic", later, "--time", when).lines, [f"{later}:0:2"])
    call("--topic-partitions", f"{topic}:1", code=0)
    call("--topic", topic, "--partitions", "0", code=0)
    call("--topic", "no-such-topic")

    file = sides.ringlog.home / f"{topic}.json"
    file.write_text(json.dumps({"version": 1, "partitions": [{"topic": topic, "partition": 0, "offset": 3},
                                                             {"topic": topic, "partition": 1, "offset": -1}]}))
    sides.run("kafka-delete-records", "--offset-json-file", file, code=0)
    earliest = call("--topic", topic, "--time", -2, code=0).lines
    same("first offsets", earliest, [f"{topic}:0:3", ends[1]])
    file.write_text(json.dumps({"version": 1, "partitions": [{"topic": topic, "partition": 0, "offset": 1000}]}))
    sides.run("kafka-delete-records", "--offset-json-file", file)


def log_dirs(sides):
    topic = sides.topic("dirs", 2)
    for key in "ab":  # a record a batch: their times, and with them the sizes, vary
        keyed(sides, topic, f"{key}:{key * 100}")

    def sizes(text, side):
        found = json.loads(next(line for line in text.splitlines() if line.startswith("{")))
        for broker in found["brokers"]:
            for directory in broker["logDirs"]:
                same("log directory", pathlib.Path(directory.pop("logDir")), side.logs)
                directory["partitions"].sort(key=lambda partition: partition["partition"])
        return found
    said = sides.run("kafka-log-dirs", "--describe", "--topic-list", topic, normal=sizes, code=0)
    has(said, f'"partition":"{topic}-0"', f'"partition":"{topic}-1"')
    sides.run("kafka-log-dirs", "--describe", "--topic-list", topic, "--broker-list", BROKER_ID, normal=sizes, code=0)
    sides.run("kafka-log-dirs", "--describe", "--topic-list", topic, "--broker-list", 99)


def numbers_away(text, side):
    return re.sub(r"[-\d.,:]+", "N", text).split()


def perf(sides):
    topic = sides.topic("perf")
    at = lambda side: f"bootstrap.servers={side.bootstrap}"
    said = sides.run("kafka-producer-perf-test", "--topic", topic, "--num-records", 5000, "--record-size", 100,
                     "--throughput", -1, "--producer-props", at, "acks=all", place=None, normal=numbers_away, code=0)
    has(said, "5000 records sent")
    count = "--messages" if sides.tools.version.startswith("3.") else "--num-records"
    said = sides.run("kafka-consumer-perf-test", "--topic", topic, count, 5000, normal=numbers_away, code=0)
    same("records consumed", said.lines[-1].split(", ")[4], "5000")


def verifiable(sides):
    topic, group = sides.topic("verifiable"), run.unique("verifiable")

    def events(text, side):
        found = [json.loads(line) for line in text.splitlines()]
        for event in found:
            event.pop("timestamp", None)
            event.pop("avg_throughput", None)
            event.pop("partitions", None)
        consumed = sum(event.get("count", 0) for event in found if event["name"] == "records_consumed")
        kept = [event for event in found if event["name"] not in ("records_consumed", "offsets_committed")]
        return sorted(json.dumps(event, sort_keys=True) for event in kept), consumed
    said = sides.run("kafka-verifiable-producer", "--topic", topic, "--max-messages", 500, "--acks", -1,
                     normal=events, code=0)
    has(said, '"acked":500')
    said = sides.run("kafka-verifiable-consumer", "--topic", topic, "--group-id", group, "--max-messages", 500,
                     "--reset-policy", "earliest", normal=events, code=0)
    same("records consumed", events(said.output, None)[1], 500)


def versions(sides):
    """No comparison: Ringlog does not serve all of Kafka's requests. But each that it serves is Kafka's."""
    said = sides.tools.expect("kafka-broker-api-versions", "--bootstrap-server", sides.ringlog.bootstrap)
    has(said, f"(id: {BROKER_ID} rack: null", "Produce(0):", "Fetch(1):", "usable:")
    if "UNKNOWN" in said.output:
        raise Failed(f"an API that this Kafka does not know: {said}")
    unusable = [line for line in said.lines if "NodeApiVersions" in line or "UNSUPPORTED_VERSION" in line]
    same("ranges without a common version", unusable, [])


def moves(sides):
    """A reassignment where nothing is to be moved, and what cannot be."""
    topic = sides.topic("moves", 2)
    file = sides.ringlog.home / f"{topic}.json"
    known = [{"topic": topic, "partition": partition, "replicas": [BROKER_ID]} for partition in range(2)]
    missing = [{"topic": topic, "partition": 9, "replicas": [BROKER_ID]}]
    call = lambda *words, **options: sides.run("kafka-reassign-partitions", *words, **options)
    for partitions, code in [(known, 0), (missing, None)]:
        file.write_text(json.dumps({"version": 1, "partitions": partitions}))
        for word in ["--execute", "--verify"]:
            call("--reassignment-json-file", file, word, code=code)
    call("--list", code=0)


def others(sides):
    """Commands that a person tries: election, the cluster's id."""
    topic = sides.topic("others")
    sides.run("kafka-leader-election", "--election-type", "preferred", "--topic", topic, "--partition", 0)
    sides.run("kafka-leader-election", "--election-type", "preferred", "--topic", topic, "--partition", 9)
    said = sides.tools.expect("kafka-cluster", "cluster-id", "--bootstrap-server", sides.ringlog.bootstrap)
    if not re.search(r"Cluster ID: [\w-]{22}\n", said.output):
        raise Failed(str(said))


def dump_live(sides, topic):
    """kafka-dump-log on segments of a broker that runs; `dump_stopped` looks at them again."""
    sides.run("kafka-topics", "--create", "--topic", topic, "--partitions", 1, code=0)
    for codec in ["none", *run.CODECS]:
        keyed(sides, topic, f"key:{codec * 20}", codec=codec)
    has(dump(sides, topic, "log", "--print-data-log", "--deep-iteration"), "baseOffset: 4", "payload: zstd")


def dump(sides, topic, suffix, *words):
    return sides.run("kafka-dump-log", "--files", f"LOGS/{topic}-0/{20 * '0'}.{suffix}", *words, place=None, code=0)


def dump_stopped(sides, topic):
    """After a clean stop of both: log, indexes as the stock tool checks them, and the producer snapshot."""
    sides.ringlog.terminate()
    sides.oracle.terminate()
    log = dump(sides, topic, "log", "--print-data-log")
    same("codecs", set(re.findall(r"compresscodec: (\w+)", log.output)), {"none", "gzip", "snappy", "lz4", "zstd"})
    dump(sides, topic, "index", "--index-sanity-check")
    dump(sides, topic, "timeindex", "--verify-index-only")
    snapshots = list((sides.ringlog.logs / f"{topic}-0").glob("*.snapshot"))
    same("producer snapshots", [file.name for file in snapshots], [f"{5:020}.snapshot"])
    has(sides.tools.expect("kafka-dump-log", "--files", snapshots[0]), "producerId:")
    committed = [file for file in sides.ringlog.logs.glob("__consumer_offsets-*/*.log") if file.stat().st_size > 0]
    said = [sides.tools.expect("kafka-dump-log", "--files", file, "--offsets-decoder").output for file in committed]
    if not any('"group"' in text and '"offset"' in text for text in said):
        raise Failed(f"no commit in {len(committed)} files: {said[:1]}")


def modern(sides):
    topic = run.unique("dumped")
    for test in [topics, configs, console, groups, members, offsets, log_dirs, perf, verifiable, versions, moves, others]:
        yield test.__name__.replace("_", "-"), lambda t=test: compared(sides, t)
    yield "dump-log of a broker that runs", lambda: compared(sides, dump_live, topic)
    yield "dump-log after a clean stop", lambda: compared(sides, dump_stopped, topic)


def compared(sides, test, *words):
    """All that differs, not only the first."""
    try:
        test(sides, *words)
    except Failed as error:
        sides.differences.append(str(error))
    sides.verdict()
