// Franz-go: an idempotent producer, then a group consumer.
//
// usage: franz BOOTSTRAP TOPIC COUNT COMPRESSION GROUP
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"time"

	"github.com/twmb/franz-go/pkg/kgo"
)

func main() {
	bootstrap, topic, compression, group := os.Args[1], os.Args[2], os.Args[4], os.Args[5]
	count, err := strconv.Atoi(os.Args[3])
	if err != nil {
		log.Fatal(err)
	}
	codecs := map[string]kgo.CompressionCodec{
		"none": kgo.NoCompression(), "gzip": kgo.GzipCompression(), "snappy": kgo.SnappyCompression(),
		"lz4": kgo.Lz4Compression(), "zstd": kgo.ZstdCompression(),
	}
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()

	producer, err := kgo.NewClient(
		kgo.SeedBrokers(bootstrap), kgo.AllowAutoTopicCreation(), kgo.DefaultProduceTopic(topic),
		kgo.RecordPartitioner(kgo.ManualPartitioner()), kgo.ProducerBatchCompression(codecs[compression]),
	)
	if err != nil {
		log.Fatal(err)
	}
	records := make([]*kgo.Record, count)
	for number := range records {
		records[number] = &kgo.Record{Value: []byte(strconv.Itoa(number))}
	}
	if err := producer.ProduceSync(ctx, records...).FirstErr(); err != nil {
		log.Fatal("produce: ", err)
	}
	producer.Close()

	consumer, err := kgo.NewClient(
		kgo.SeedBrokers(bootstrap), kgo.ConsumerGroup(group), kgo.ConsumeTopics(topic),
		kgo.ConsumeResetOffset(kgo.NewOffset().AtStart()), kgo.DisableAutoCommit(),
	)
	if err != nil {
		log.Fatal(err)
	}
	for seen := 0; seen < count; {
		fetches := consumer.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			log.Fatalf("consume after %d of %d: %v", seen, count, err)
		}
		fetches.EachRecord(func(record *kgo.Record) {
			fmt.Println(record.Offset, string(record.Value))
			seen++
		})
	}
	if err := consumer.CommitUncommittedOffsets(ctx); err != nil {
		log.Fatal("commit: ", err)
	}
	consumer.Close()
}
