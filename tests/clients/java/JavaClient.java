// The Java client: an idempotent acks=all producer, a group consumer, the admin client.
//
// usage: JavaClient loop BOOTSTRAP TOPIC COUNT COMPRESSION GROUP   produce, then consume with a group
//        JavaClient produce BOOTSTRAP TOPIC COUNT                  paced, prints `acked n` (crash test)
//        JavaClient consume BOOTSTRAP TOPIC COUNT GROUP
//        JavaClient admin BOOTSTRAP TOPIC

import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.Future;
import java.util.concurrent.TimeUnit;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.serialization.StringDeserializer;
import org.apache.kafka.common.serialization.StringSerializer;

public class JavaClient {
    public static void main(String[] args) throws Exception {
        switch (args[0]) {
            case "loop" -> {
                produce(args[1], args[2], Integer.parseInt(args[3]), args[4], false);
                consume(args[1], args[2], Integer.parseInt(args[3]), args[5]);
            }
            case "produce" -> produce(args[1], args[2], Integer.parseInt(args[3]), "none", true);
            case "consume" -> consume(args[1], args[2], Integer.parseInt(args[3]), args[4]);
            case "admin" -> admin(args[1], args[2]);
            default -> throw new IllegalArgumentException(args[0]);
        }
    }

    static void produce(String bootstrap, String topic, int count, String compression, boolean paced) throws Exception {
        Properties config = new Properties();
        config.put("bootstrap.servers", bootstrap);
        config.put("enable.idempotence", "true");
        config.put("acks", "all");
        config.put("compression.type", compression);
        config.put("delivery.timeout.ms", "120000");
        try (var producer = new KafkaProducer<>(config, new StringSerializer(), new StringSerializer())) {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (int number = 0; number < count; number++) {
                sent.add(producer.send(new ProducerRecord<>(topic, 0, null, Integer.toString(number))));
                if (paced && number % 100 == 99) {
                    sent.get(number - 50).get(120, TimeUnit.SECONDS); // at most 50 wait
                    System.out.println("acked " + (number - 50));
                }
            }
            for (int number = 0; number < count; number++) {
                sent.get(number).get(120, TimeUnit.SECONDS);
            }
        }
    }

    static void consume(String bootstrap, String topic, int count, String group) {
        Properties config = new Properties();
        config.put("bootstrap.servers", bootstrap);
        config.put("group.id", group);
        config.put("auto.offset.reset", "earliest");
        config.put("enable.auto.commit", "false");
        try (var consumer = new KafkaConsumer<>(config, new StringDeserializer(), new StringDeserializer())) {
            consumer.subscribe(List.of(topic));
            long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(30);
            int seen = 0;
            StringBuilder lines = new StringBuilder();
            while (seen < count) {
                if (System.nanoTime() > deadline) {
                    throw new IllegalStateException("only " + seen + " of " + count + " records came within 30 s");
                }
                for (ConsumerRecord<String, String> record : consumer.poll(Duration.ofSeconds(1))) {
                    lines.append(record.offset()).append(' ').append(record.value()).append('\n');
                    seen++;
                }
            }
            consumer.commitSync();
            System.out.print(lines);
        }
    }

    static void admin(String bootstrap, String topic) throws Exception {
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", bootstrap))) {
            admin.createTopics(List.of(new NewTopic(topic, 3, (short) 1))).all().get(30, TimeUnit.SECONDS);
            var described = admin.describeTopics(List.of(topic)).allTopicNames().get(30, TimeUnit.SECONDS).get(topic);
            if (described.partitions().size() != 3) {
                throw new IllegalStateException("partitions of " + described);
            }
            var nodes = admin.describeCluster().nodes().get(30, TimeUnit.SECONDS);
            for (var partition : described.partitions()) {
                if (!nodes.contains(partition.leader())) {
                    throw new IllegalStateException(partition + " is led by none of " + nodes);
                }
            }
            admin.deleteTopics(List.of(topic)).all().get(30, TimeUnit.SECONDS);
            long deadline = System.nanoTime() + TimeUnit.SECONDS.toNanos(30);
            while (admin.listTopics().names().get(30, TimeUnit.SECONDS).contains(topic)) {
                if (System.nanoTime() > deadline) {
                    throw new IllegalStateException(topic + " is still listed 30 s after its deletion");
                }
            }
        }
    }
}
