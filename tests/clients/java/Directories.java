// Fills a broker with all that a log directory can hold, and tells what a broker holds.
//
// Commands come as lines of standard input, words separated by tabs; each is answered by a line, `ok` or
// `failed: why`, when it is done:
//
//     make BOOTSTRAP WORD...        topics, records, groups; the words: transactions, formats, new-groups
//     more BOOTSTRAP                records behind those, as after a restart
//     dump BOOTSTRAP FILE           as JSON: every record and offset of every topic, every committed offset
//     resume BOOTSTRAP FILE         what a consumer of each group reads from where the group has committed
//
// Compiled with kafka-clients 2.8 and run with any later one. Records are stamped by the producer, some
// hours ago and minutes apart, so that segments roll by `segment.ms` with no need to wait: Kafka 4 has no
// smaller segments than 1 MiB.

import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Paths;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collection;
import java.util.Collections;
import java.util.HashMap;
import java.util.HashSet;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.Set;
import java.util.TreeMap;
import java.util.TreeSet;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.ConsumerGroupListing;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.consumer.ConsumerGroupMetadata;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.consumer.OffsetAndTimestamp;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.PartitionInfo;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.internals.RecordHeader;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public final class Directories {
    private static final List<String> CODECS = List.of("none", "gzip", "snappy", "lz4", "zstd");
    private static final long MINUTE_MS = 60_000;
    private static final long SEGMENT_MS = 10 * MINUTE_MS;
    /** Parts of a log; each begins a segment. */
    private static final int PARTS = 4;
    private static final int PART_RECORDS = 12;
    /** Has offsets in a transaction that does not end. Kafka's consumers wait for its end. */
    private static final String PENDING = "group-pending";
    private static final Duration POLL = Duration.ofMillis(200);
    private static final long PATIENCE_NS = TimeUnit.SECONDS.toNanos(60);

    private final String bootstrap;
    private final long base;

    private Directories(String bootstrap) {
        this.bootstrap = bootstrap;
        base = (System.currentTimeMillis() / 1000 * 1000) - 5 * 60 * MINUTE_MS;
    }

    public static void main(String[] words) throws Exception {
        PrintStream answers = System.out;
        System.setOut(System.err);
        BufferedReader commands = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        Map<String, Directories> made = new HashMap<>();
        for (String line = commands.readLine(); line != null; line = commands.readLine()) {
            String[] parts = line.split("\t", -1);
            String answer = "ok";
            try {
                Directories it = made.computeIfAbsent(parts[1], Directories::new);
                switch (parts[0]) {
                    case "make" -> it.make(new HashSet<>(Arrays.asList(parts).subList(2, parts.length)));
                    case "more" -> it.more();
                    case "dump" -> it.dump(parts[2]);
                    case "resume" -> it.resume(parts[2]);
                    default -> throw new IllegalArgumentException(parts[0]);
                }
            } catch (Exception error) {
                error.printStackTrace();
                answer = "failed: " + error.toString().replace('\n', ' ');
            }
            answers.println(answer);
            answers.flush();
        }
        Runtime.getRuntime().halt(0);
    }

    // ---- what is written -------------------------------------------------------------------------

    private void make(Set<String> wanted) throws Exception {
        try (Admin admin = admin()) {
            create(admin, wanted);
            plain("plain", CODECS, 0, PARTS);
            stamped();
            plain("deleted", List.of("none", "zstd"), 0, PARTS);
            Map<TopicPartition, RecordsToDelete> cut = new HashMap<>();
            for (int partition = 0; partition < 2; partition++) {
                cut.put(new TopicPartition("deleted", partition), RecordsToDelete.beforeOffset(PART_RECORDS + 3));
            }
            admin.deleteRecords(cut).all().get(30, TimeUnit.SECONDS);
            compacted("compacted", List.of("none", "lz4"), 0);
            if (wanted.contains("formats")) {
                formats(admin);
            }
            if (wanted.contains("transactions")) {
                transactions();
            }
            groups(admin, wanted.contains("new-groups"));
        }
    }

    private void create(Admin admin, Set<String> wanted) throws Exception {
        List<NewTopic> topics = new ArrayList<>();
        topics.add(topic("plain", 5));
        topics.add(topic("empty", 2));
        topics.add(topic("stamped", 1, "message.timestamp.type", "LogAppendTime"));
        topics.add(topic("deleted", 2));
        topics.add(topic("compacted", 2, "cleanup.policy", "compact", "min.cleanable.dirty.ratio", "0.01"));
        if (wanted.contains("formats")) {
            topics.add(topic("format-0", 4, "message.format.version", "0.9.0", "segment.bytes", "700"));
            topics.add(topic("format-1", 4, "message.format.version", "0.10.2"));
            topics.add(topic("mixed", 4, "message.format.version", "0.10.2"));
            topics.add(topic("compacted-1", 2, "message.format.version", "0.10.2", "cleanup.policy", "compact",
                             "min.cleanable.dirty.ratio", "0.01"));
        }
        if (wanted.contains("transactions")) {
            topics.add(topic("transactional", 2));
            topics.add(topic("open", 1));
            topics.add(topic("compacted-transactional", 1, "cleanup.policy", "compact",
                             "min.cleanable.dirty.ratio", "0.01"));
        }
        admin.createTopics(topics).all().get(60, TimeUnit.SECONDS);
    }

    private static NewTopic topic(String name, int partitions, String... settings) {
        Map<String, String> configs = new HashMap<>();
        configs.put("segment.ms", Long.toString(SEGMENT_MS));
        configs.put("index.interval.bytes", "256");
        for (int i = 0; i < settings.length; i += 2) {
            configs.put(settings[i], settings[i + 1]);
        }
        return new NewTopic(name, partitions, (short) 1).configs(configs);
    }

    /** A partition per codec, a segment per part, a few batches in each. */
    private void plain(String topic, List<String> codecs, int first, int end) throws Exception {
        for (int partition = 0; partition < codecs.size(); partition++) {
            String codec = codecs.get(partition);
            try (var producer = producer(codec)) {
                for (int number = first * PART_RECORDS; number < end * PART_RECORDS; number++) {
                    long timestamp = timestamp(number / PART_RECORDS, number % PART_RECORDS);
                    String key = number % 3 == 0 ? null : "key-" + number % 5;
                    String text = (codec + " " + number + " ").repeat(number % 4 * 4 + 1);
                    String value = number % 11 == 7 ? null : number % 11 == 8 ? "" : text;
                    var record = new ProducerRecord<>(topic, partition, timestamp, bytes(key), bytes(value));
                    if (number % 2 == 0 && topic.equals("plain")) {
                        record.headers().add("number", bytes(Integer.toString(number)));
                        record.headers().add("none", null);
                    }
                    producer.send(record);
                    if (number % 4 == 3) {
                        producer.flush();
                    }
                }
            }
        }
    }

    private void stamped() throws Exception {
        try (var producer = producer("gzip")) {
            for (int number = 0; number < 10; number++) {
                producer.send(new ProducerRecord<>("stamped", 0, 1L, null, bytes("stamped " + number)));
            }
        }
    }

    /** Each key many times; keys 3, 4 and 5 end with a tombstone, in the middle of the log. */
    private void compacted(String topic, List<String> codecs, int first) throws Exception {
        for (int partition = 0; partition < codecs.size(); partition++) {
            try (var producer = producer(codecs.get(partition))) {
                for (int part = first; part < first + PARTS; part++) {
                    for (int number = 0; number < 20; number++) {
                        int key = number % 10;
                        boolean isTombstone = number >= 10 && key == 2 + part && part < 4;
                        if (number < 10 || key < 3 || isTombstone) {
                            byte[] value = isTombstone ? null : bytes("part " + part + " number " + number);
                            if (!(key >= 3 && key < 6 && part >= key - 1 && !isTombstone)) {
                                producer.send(new ProducerRecord<>(topic, partition, timestamp(part, number),
                                                                   bytes("key-" + key), value));
                            }
                        }
                    }
                    producer.flush();
                }
            }
        }
    }

    /** Messages of Kafka 0.9 and 0.10, and a log that begins with those and goes on with record batches. */
    private void formats(Admin admin) throws Exception {
        List<String> codecs = CODECS.subList(0, 4);
        plain("format-0", codecs, 0, PARTS);
        plain("format-1", codecs, 0, PARTS);
        plain("mixed", codecs, 0, PARTS / 2);
        var op = new AlterConfigOp(new ConfigEntry("message.format.version", "2.8"), AlterConfigOp.OpType.SET);
        Map<ConfigResource, Collection<AlterConfigOp>> change = new HashMap<>();
        change.put(new ConfigResource(ConfigResource.Type.TOPIC, "mixed"), List.of(op));
        admin.incrementalAlterConfigs(change).all().get(30, TimeUnit.SECONDS);
        plain("mixed", codecs, PARTS / 2, PARTS);
        compacted("compacted-1", List.of("none", "gzip"), 0);
    }

    /** Committed, aborted, and one that stays open: the producer is not closed. */
    private void transactions() throws Exception {
        var producer = transactional("transactions");
        for (int turn = 0; turn < 6; turn++) {
            producer.beginTransaction();
            boolean isAborted = turn % 2 == 1;
            for (int number = 0; number < 10; number++) {
                byte[] value = bytes((isAborted ? "aborted " : "committed ") + turn + " " + number);
                producer.send(new ProducerRecord<>("transactional", number % 2, timestamp(turn / 2, number), null, value));
                producer.send(new ProducerRecord<>("compacted-transactional", 0, timestamp(turn / 2, number),
                                                   bytes("key-" + number % 4), value));
            }
            producer.sendOffsetsToTransaction(offsets("plain", 10 + turn, "turn " + turn),
                                              new ConsumerGroupMetadata("group-transactional"));
            if (isAborted) {
                producer.abortTransaction();
            } else {
                producer.commitTransaction();
            }
        }
        producer.close();
        try (var consumer = consumer(PENDING)) {
            consumer.commitSync(offsets("plain", 3, "not the pending one"));
        }
        var open = transactional("open");
        open.beginTransaction();
        for (int number = 0; number < 5; number++) {
            open.send(new ProducerRecord<>("open", 0, timestamp(0, number), null, bytes("open " + number)));
        }
        open.sendOffsetsToTransaction(offsets("plain", 30, "pending"), new ConsumerGroupMetadata(PENDING));
        open.flush();
    }

    private static Map<TopicPartition, OffsetAndMetadata> offsets(String topic, long offset, String metadata) {
        Map<TopicPartition, OffsetAndMetadata> offsets = new HashMap<>();
        for (int partition = 0; partition < 2; partition++) {
            offsets.put(new TopicPartition(topic, partition), new OffsetAndMetadata(offset + partition, metadata));
        }
        return offsets;
    }

    private void groups(Admin admin, boolean isNewProtocol) throws Exception {
        try (var consumer = consumer("group-manual")) {
            consumer.commitSync(offsets("plain", 1, "replaced"));
            consumer.commitSync(offsets("plain", 20, "metadata \u00e4"));
            consumer.commitSync(offsets("deleted", 30, ""));
        }
        try (var consumer = consumer("group-gone")) {
            consumer.commitSync(offsets("plain", 5, ""));
        }
        admin.deleteConsumerGroups(List.of("group-gone")).all().get(30, TimeUnit.SECONDS);
        read("group-read", List.of("plain", "compacted"), 100, null);
        if (isNewProtocol) {
            read("group-new-protocol", List.of("plain"), 100, "consumer");
        }
    }

    /** Reads at least so many records as a member of the group, and commits. */
    private void read(String group, List<String> topics, int count, String protocol) {
        Properties config = consumerConfig(group);
        config.put("max.poll.records", "10");
        if (protocol != null) {
            config.put("group.protocol", protocol);
        }
        try (var consumer = new KafkaConsumer<byte[], byte[]>(config)) {
            consumer.subscribe(topics);
            long deadline = System.nanoTime() + PATIENCE_NS;
            for (int seen = 0; seen < count; seen += consumer.poll(POLL).count()) {
                check(deadline, group + " has read " + seen + " records");
            }
            consumer.commitSync();
        }
    }

    /** In the epoch of another leader. */
    private void more() throws Exception {
        plain("plain", CODECS, PARTS, PARTS + 2);
        compacted("compacted", List.of("none", "lz4"), PARTS);
        stamped();
        read("group-read", List.of("plain", "compacted"), 100, null);
        try (var consumer = consumer("group-after")) {
            // With the epoch of the last record, as a consumer that has read it.
            Map<TopicPartition, OffsetAndMetadata> ends = new HashMap<>();
            for (int partition = 0; partition < CODECS.size(); partition++) {
                var at = new TopicPartition("plain", partition);
                consumer.assign(List.of(at));
                long end = consumer.endOffsets(List.of(at)).get(at);
                consumer.seek(at, end - 2);
                long deadline = System.nanoTime() + PATIENCE_NS;
                Optional<Integer> epoch = Optional.empty();
                while (consumer.position(at) < end) {
                    check(deadline, "at " + consumer.position(at) + " of " + at);
                    for (var record : consumer.poll(POLL)) {
                        epoch = record.leaderEpoch();
                    }
                }
                ends.put(at, new OffsetAndMetadata(end - 2, epoch, "after"));
            }
            consumer.commitSync(ends);
        }
    }

    // ---- what is there ---------------------------------------------------------------------------

    private void dump(String file) throws Exception {
        Map<String, Object> all = new TreeMap<>();
        try (Admin admin = admin(); var consumer = consumer(null)) {
            Map<String, Object> topics = new TreeMap<>();
            for (String topic : new TreeSet<>(admin.listTopics().names().get(30, TimeUnit.SECONDS))) {
                Map<String, Object> partitions = new TreeMap<>();
                for (PartitionInfo partition : consumer.partitionsFor(topic)) {
                    var at = new TopicPartition(topic, partition.partition());
                    partitions.put(Integer.toString(at.partition()), contents(consumer, at));
                }
                topics.put(topic, partitions);
            }
            all.put("topics", topics);
            all.put("groups", committed(admin));
        }
        Files.writeString(Paths.get(file), json(all, 0) + "\n");
    }

    private static Map<String, Object> contents(KafkaConsumer<byte[], byte[]> consumer, TopicPartition at) {
        Map<String, Object> contents = new TreeMap<>();
        List<TopicPartition> one = List.of(at);
        long start = consumer.beginningOffsets(one).get(at);
        long end = consumer.endOffsets(one).get(at);
        contents.put("start", start);
        contents.put("end", end);
        List<Object> records = new ArrayList<>();
        Set<Long> timestamps = new TreeSet<>();
        consumer.assign(one);
        consumer.seekToBeginning(one);
        long deadline = System.nanoTime() + PATIENCE_NS;
        while (consumer.position(at) < end) {
            check(deadline, at + " is read up to " + consumer.position(at) + " of " + end);
            for (ConsumerRecord<byte[], byte[]> record : consumer.poll(POLL)) {
                records.add(line(record));
                timestamps.add(record.timestamp());
            }
        }
        contents.put("records", records);
        Map<String, Object> times = new TreeMap<>();
        if (!timestamps.contains(-1L)) {
            int number = 0;
            for (long timestamp : timestamps) {
                if (number++ % 5 == 0) {
                    OffsetAndTimestamp found = consumer.offsetsForTimes(Map.of(at, timestamp)).get(at);
                    times.put(Long.toString(timestamp), found == null ? "none" : List.of(found.offset(), found.timestamp()));
                }
            }
        }
        contents.put("times", times);
        return contents;
    }

    /** Offset, timestamp, its type, leader epoch, key, value, headers. */
    private static List<Object> line(ConsumerRecord<byte[], byte[]> record) {
        List<Object> headers = new ArrayList<>();
        for (Header header : record.headers()) {
            headers.add(Arrays.asList(header.key(), text(header.value())));
        }
        String type = record.timestampType().toString();
        return Arrays.asList(record.offset(), record.timestamp(), type, (long) record.leaderEpoch().orElse(-1),
                             text(record.key()), text(record.value()), headers);
    }

    private static Map<String, Object> committed(Admin admin) throws Exception {
        Map<String, Object> groups = new TreeMap<>();
        for (ConsumerGroupListing listing : admin.listConsumerGroups().all().get(30, TimeUnit.SECONDS)) {
            Map<String, Object> offsets = new TreeMap<>();
            var committed = admin.listConsumerGroupOffsets(listing.groupId()).partitionsToOffsetAndMetadata();
            for (var entry : committed.get(30, TimeUnit.SECONDS).entrySet()) {
                OffsetAndMetadata value = entry.getValue();
                if (value != null) {
                    long epoch = value.leaderEpoch().orElse(-1);
                    offsets.put(entry.getKey().toString(), Arrays.asList(value.offset(), epoch, value.metadata()));
                }
            }
            if (!offsets.isEmpty()) { // else it has pending ones only
                groups.put(listing.groupId(), offsets);
            }
        }
        return groups;
    }

    /** A member of each group reads on, to the ends of all partitions for which its group has an offset. */
    private void resume(String file) throws Exception {
        Map<String, Object> groups = new TreeMap<>();
        try (Admin admin = admin()) {
            for (ConsumerGroupListing listing : admin.listConsumerGroups().all().get(30, TimeUnit.SECONDS)) {
                String group = listing.groupId();
                if (group.equals(PENDING)) {
                    continue;
                }
                var committed = admin.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata();
                Set<TopicPartition> known = committed.get(30, TimeUnit.SECONDS).keySet();
                Map<String, Object> read = new TreeMap<>();
                try (var consumer = consumer(group)) {
                    consumer.assign(known);
                    Map<TopicPartition, Long> ends = consumer.endOffsets(known);
                    long deadline = System.nanoTime() + PATIENCE_NS;
                    while (known.stream().anyMatch(at -> consumer.position(at) < ends.get(at))) {
                        check(deadline, group + " does not come to " + ends);
                        for (ConsumerRecord<byte[], byte[]> record : consumer.poll(POLL)) {
                            String at = record.topic() + "-" + record.partition();
                            @SuppressWarnings("unchecked")
                            var offsets = (List<Object>) read.computeIfAbsent(at, key -> new ArrayList<>());
                            offsets.add(record.offset());
                        }
                    }
                }
                groups.put(group, read);
            }
        }
        Files.writeString(Paths.get(file), json(groups, 0) + "\n");
    }

    // ---- clients ---------------------------------------------------------------------------------

    private Admin admin() {
        return Admin.create(Map.of("bootstrap.servers", bootstrap));
    }

    private KafkaProducer<byte[], byte[]> producer(String codec) {
        return new KafkaProducer<>(producerConfig(codec));
    }

    /** What is sent before a flush is one batch. */
    private Map<String, Object> producerConfig(String codec) {
        Map<String, Object> config = new HashMap<>();
        config.put("bootstrap.servers", bootstrap);
        config.put("key.serializer", ByteArraySerializer.class);
        config.put("value.serializer", ByteArraySerializer.class);
        config.put("compression.type", codec);
        config.put("acks", "all");
        config.put("linger.ms", "60000");
        config.put("enable.idempotence", "false"); // message formats 0 and 1 cannot
        return config;
    }

    private KafkaProducer<byte[], byte[]> transactional(String id) {
        Map<String, Object> config = producerConfig("none");
        config.put("enable.idempotence", "true");
        config.put("transactional.id", id);
        config.put("transaction.timeout.ms", "900000");
        var producer = new KafkaProducer<byte[], byte[]>(config);
        producer.initTransactions();
        return producer;
    }

    private Properties consumerConfig(String group) {
        Properties config = new Properties();
        config.put("bootstrap.servers", bootstrap);
        config.put("key.deserializer", ByteArrayDeserializer.class);
        config.put("value.deserializer", ByteArrayDeserializer.class);
        config.put("auto.offset.reset", "earliest");
        config.put("enable.auto.commit", "false");
        if (group != null) {
            config.put("group.id", group);
        }
        return config;
    }

    private KafkaConsumer<byte[], byte[]> consumer(String group) {
        return new KafkaConsumer<>(consumerConfig(group));
    }

    private static void check(long deadline, String what) {
        if (System.nanoTime() > deadline) {
            throw new IllegalStateException("within a minute only: " + what);
        }
    }

    private long timestamp(int part, int number) {
        return base + part * 2 * SEGMENT_MS + number * 1000L;
    }

    private static byte[] bytes(String text) {
        return text == null ? null : text.getBytes(StandardCharsets.UTF_8);
    }

    private static String text(byte[] bytes) {
        return bytes == null ? null : new String(bytes, StandardCharsets.UTF_8);
    }

    // ---- JSON ------------------------------------------------------------------------------------

    /** Maps are spread over lines, and lists of lists; a list of values is one line. */
    private static String json(Object value, int depth) {
        String inner = "\n" + " ".repeat(depth + 1), outer = "\n" + " ".repeat(depth);
        List<String> parts = new ArrayList<>();
        if (value instanceof Map<?, ?> map) {
            map.forEach((key, one) -> parts.add(inner + quoted(key.toString()) + ": " + json(one, depth + 1)));
            return "{" + String.join(",", parts) + (parts.isEmpty() ? "" : outer) + "}";
        }
        if (value instanceof List<?> list) {
            boolean isLong = list.size() > 0 && list.get(0) instanceof List && depth < 6 && list.size() > 2;
            for (Object one : list) {
                parts.add((isLong ? inner : "") + json(one, depth + 6));
            }
            return "[" + String.join(isLong ? "," : ", ", parts) + (isLong ? outer : "") + "]";
        }
        return value instanceof String text ? quoted(text) : String.valueOf(value);
    }

    private static String quoted(String text) {
        StringBuilder out = new StringBuilder("\"");
        text.chars().forEach(c -> {
            if (c == '"' || c == '\\') {
                out.append('\\').append((char) c);
            } else if (c < 0x20 || c > 0x7e) {
                out.append(String.format("\\u%04x", c));
            } else {
                out.append((char) c);
            }
        });
        return out.append('"').toString();
    }
}
