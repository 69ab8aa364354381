import com.fasterxml.jackson.annotation.JsonIgnoreProperties;
import com.fasterxml.jackson.annotation.JsonProperty;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.ObjectReader;
import com.fasterxml.jackson.databind.ObjectWriter;
import java.io.IOException;
import java.nio.file.Files;
import java.util.Properties;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsBuilder;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.kstream.Consumed;
import org.apache.kafka.streams.kstream.Produced;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.Stores;

/**
 * The simple job in Kafka Streams: one thread, at least once, a commit a second, an in-memory store.
 *
 * <p>The last argument says whether the store has its changelog topic (the default of Kafka Streams, needed to survive a
 * restart) or not. JSON goes through Jackson into typed objects, and what is of no use is left out before the store.
 */
public final class SimpleJob {
  private static final String PARTICIPANT = "com.twilio.voice.status-callback.conference.participant.updated";
  private static final String RECORDING = "com.twilio.voice.status-callback.recording.processed";
  private static final String STORE = "conferences";

  @JsonIgnoreProperties(ignoreUnknown = true)
  public static final class Parameters {
    @JsonProperty("CallSid") public String call;
    @JsonProperty("ConferenceSid") public String conference;
    @JsonProperty("RecordingSid") public String recording;
    @JsonProperty("RecordingSource") public String source;
  }

  @JsonIgnoreProperties(ignoreUnknown = true)
  public static final class Request {
    public Parameters parameters;
  }

  @JsonIgnoreProperties(ignoreUnknown = true)
  public static final class Data {
    public Request request;
  }

  @JsonIgnoreProperties(ignoreUnknown = true)
  public static final class Event {
    public String type;
    public Data data;
  }

  public record Verdict(
      @JsonProperty("recording_sid") String recording,
      @JsonProperty("call_sid") String call,
      @JsonProperty("conference_sid") String conference,
      @JsonProperty("outcome") String outcome) {}

  private static final ObjectMapper MAPPER = new ObjectMapper();
  private static final ObjectReader READER = MAPPER.readerFor(Event.class);
  private static final ObjectWriter WRITER = MAPPER.writerFor(Verdict.class);

  private static Event read(byte[] value) {
    try {
      Event event = READER.readValue(value);
      boolean ours = PARTICIPANT.equals(event.type) || RECORDING.equals(event.type);
      boolean whole = event.data != null && event.data.request != null && event.data.request.parameters != null;
      return ours && whole ? event : null;
    } catch (IOException unreadable) {
      return null;
    }
  }

  private static final class Judge implements Processor<String, Event, String, byte[]> {
    private ProcessorContext<String, byte[]> context;
    private KeyValueStore<String, String> conferences;

    @Override
    public void init(ProcessorContext<String, byte[]> context) {
      this.context = context;
      this.conferences = context.getStateStore(STORE);
    }

    @Override
    public void process(Record<String, Event> message) {
      Event event = message.value();
      Parameters parameters = event.data.request.parameters;
      if (PARTICIPANT.equals(event.type)) {
        if (parameters.call != null && parameters.conference != null) {
          conferences.put(parameters.call, parameters.conference);
        }
        return;
      }
      if (parameters.recording == null) {
        return;
      }
      String conference = parameters.call == null ? null : conferences.get(parameters.call);
      if (conference == null) {
        conference = parameters.conference;
      }
      String outcome = "StartCallRecordingAPI".equals(parameters.source) ? "allowed" : "disallowed";
      Verdict verdict = new Verdict(parameters.recording, parameters.call, conference, outcome);
      try {
        context.forward(new Record<>(parameters.recording, WRITER.writeValueAsBytes(verdict), message.timestamp()));
      } catch (IOException impossible) {
        throw new IllegalStateException(impossible);
      }
    }
  }

  public static void main(String[] arguments) throws IOException {
    String bootstrap = arguments[0];
    boolean changelog = arguments[3].equals("changelog");
    Properties settings = new Properties();
    settings.put(StreamsConfig.APPLICATION_ID_CONFIG, "streams-" + ProcessHandle.current().pid());
    settings.put(StreamsConfig.BOOTSTRAP_SERVERS_CONFIG, bootstrap);
    settings.put(StreamsConfig.NUM_STREAM_THREADS_CONFIG, 1);
    settings.put(StreamsConfig.COMMIT_INTERVAL_MS_CONFIG, 1000);
    settings.put(StreamsConfig.STATE_DIR_CONFIG, Files.createTempDirectory("streams-").toString());
    settings.put(StreamsConfig.REPLICATION_FACTOR_CONFIG, 1);
    settings.put(StreamsConfig.consumerPrefix("max.poll.records"), 2000);
    settings.put(StreamsConfig.consumerPrefix("auto.offset.reset"), "earliest");
    settings.put(StreamsConfig.producerPrefix("compression.type"), "lz4");
    settings.put(StreamsConfig.producerPrefix("linger.ms"), 5);

    StreamsBuilder builder = new StreamsBuilder();
    var store =
        Stores.keyValueStoreBuilder(Stores.inMemoryKeyValueStore(STORE), Serdes.String(), Serdes.String());
    builder.addStateStore(changelog ? store : store.withLoggingDisabled());
    builder.stream(arguments[1], Consumed.with(Serdes.String(), Serdes.ByteArray()))
        .mapValues(SimpleJob::read)
        .filter((key, event) -> event != null)
        .process(Judge::new, STORE)
        .to(arguments[2], Produced.with(Serdes.String(), Serdes.ByteArray()));

    KafkaStreams streams = new KafkaStreams(builder.build(), settings);
    Runtime.getRuntime().addShutdownHook(new Thread(streams::close));
    streams.start();
  }
}
