// What Kafka Connect's own converters make of bytes. Arguments: the bytes as base64, then a converter's class each, with
// its settings behind it (class?key=value). Prints what each writes, as base64; then the names of the settings that any
// source connector knows, and of those of its producer.

import java.util.Base64;
import java.util.HashMap;
import java.util.Map;
import org.apache.kafka.clients.producer.ProducerConfig;
import org.apache.kafka.connect.data.Schema;
import org.apache.kafka.connect.runtime.SourceConnectorConfig;
import org.apache.kafka.connect.storage.Converter;

public class Converters {
    public static void main(String[] arguments) throws Exception {
        byte[] bytes = Base64.getDecoder().decode(arguments[0]);
        for (int i = 1; i < arguments.length; i++) {
            String[] parts = arguments[i].split("[?]");
            Map<String, String> settings = new HashMap<>();
            if (parts.length > 1) settings.put(parts[1].split("=")[0], parts[1].split("=")[1]);
            Converter converter = (Converter) Class.forName(parts[0]).getDeclaredConstructor().newInstance();
            converter.configure(settings, false);
            byte[] written = converter.fromConnectData("topic", Schema.OPTIONAL_BYTES_SCHEMA, bytes);
            System.out.println(Base64.getEncoder().encodeToString(written));
        }
        System.out.println(String.join(",", SourceConnectorConfig.configDef().names()));
        System.out.println(String.join(",", ProducerConfig.configNames()));
    }
}
