// The tutorial's loop with Apache Kafka's Java client, its defaults but for acks=1, with a clock around it.
//
// usage: Tutorial produce BOOTSTRAP TOPIC COUNT PARTITIONS OUT -
//        Tutorial consume BOOTSTRAP TOPIC COUNT PARTITIONS OUT - GROUP READY
//
// As tutorial.py beside it; System.nanoTime is CLOCK_MONOTONIC on Linux.

import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.Arrays;
import java.util.List;
import java.util.Properties;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.Collectors;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

public class Tutorial {
    public static void main(String[] args) throws Exception {
        int count = Integer.parseInt(args[3]);
        int partitions = Integer.parseInt(args[4]);
        String json = args[0].equals("produce")
            ? produce(args[1], args[2], count, partitions)
            : consume(args[1], args[2], count, partitions, args[7], args[8]);
        Files.writeString(Path.of(args[5]), json);
    }

    static String produce(String bootstrap, String topic, int count, int partitions) {
        long[] sent = new long[count];
        long[] acked = new long[count];
        var error = new AtomicReference<Exception>();
        long began = System.nanoTime();
        Properties config = new Properties();
        config.put("bootstrap.servers", bootstrap);
        config.put("acks", "1"); // as the tutorial's client has it, and the other drivers
        long ended;
        try (var producer = new KafkaProducer<>(config, new StringSerializer(), new StringSerializer())) {
            for (int number = 0; number < count; number++) {
                int num = number;
                sent[num] = System.nanoTime();
                var record = new ProducerRecord<String, String>(topic, num % partitions, null, "{\"num\": " + num + "}");
                producer.send(record, (metadata, exception) -> {
                    acked[num] = System.nanoTime();
                    if (exception != null) {
                        error.compareAndSet(null, exception);
                    }
                });
            }
            producer.flush();
            ended = System.nanoTime();
        }
        if (error.get() != null) {
            throw new IllegalStateException("a record was refused", error.get());
        }
        return "{\"began_ns\": " + began + ", \"ended_ns\": " + ended
            + ", \"settings\": \"" + settings(config) + "\", \"sent_ns\": " + Arrays.toString(sent)
            + ", \"acked_ns\": " + Arrays.toString(acked) + "}";
    }

    /// What the producer makes of its configuration.
    static String settings(Properties config) {
        config.put("key.serializer", StringSerializer.class.getName());
        config.put("value.serializer", StringSerializer.class.getName());
        var values = new ProducerConfig(config).values();
        var told = List.of("acks", "batch.size", "linger.ms", "max.in.flight.requests.per.connection",
            "enable.idempotence");
        return told.stream().map(name -> name + "=" + values.get(name)).collect(Collectors.joining(", "));
    }

    static String consume(String bootstrap, String topic, int count, int partitions, String group, String ready)
            throws Exception {
        long[] received = new long[count];
        int[] due = new int[partitions];
        Arrays.setAll(due, partition -> partition);
        long began = System.nanoTime();
        Properties config = new Properties();
        config.put("bootstrap.servers", bootstrap);
        config.put("group.id", group);
        config.put("auto.offset.reset", "earliest");
        long ended;
        try (var consumer = new KafkaConsumer<>(config, new StringDeserializer(), new StringDeserializer())) {
            consumer.subscribe(List.of(topic));
            long deadline = began + Duration.ofSeconds(30).toNanos();
            int seen = 0;
            boolean isReady = ready.equals("-");
            while (seen < count) {
                var records = consumer.poll(Duration.ofMillis(isReady ? 1000 : 10));
                long now = System.nanoTime();
                if (!isReady && !consumer.assignment().isEmpty()) {
                    Files.createFile(Path.of(ready));
                    isReady = true;
                }
                for (ConsumerRecord<String, String> record : records) {
                    String value = record.value();
                    int num = Integer.parseInt(value.substring(8, value.length() - 1));
                    if (num != due[record.partition()]) {
                        throw new IllegalStateException("partition " + record.partition() + ", offset "
                            + record.offset() + ": " + num + " came, " + due[record.partition()] + " was due");
                    }
                    due[record.partition()] += partitions;
                    received[num] = now;
                    seen++;
                    deadline = now + Duration.ofSeconds(30).toNanos();
                }
                if (now > deadline) {
                    throw new IllegalStateException("only " + seen + " of " + count + " records came within 30 s");
                }
            }
            consumer.commitSync();
        }
        ended = System.nanoTime();
        return "{\"began_ns\": " + began + ", \"ended_ns\": " + ended + ", \"received_ns\": "
            + Arrays.toString(received) + "}";
    }
}
