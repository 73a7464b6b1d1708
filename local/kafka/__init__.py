"""One Apache Kafka node for development and tests; production brings its own cluster."""
