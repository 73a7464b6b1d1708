"""What a broker that does not start tells its user to do."""

from __future__ import annotations

from local.kafka.broker import advice


def test_data_of_a_newer_kafka_is_named_as_the_cause() -> None:
    # The last line that 4.2.2 leaves on a folder that 4.4.0 formatted.
    log = (
        "Caused by: org.apache.kafka.common.errors.UnsupportedVersionException: "
        "Can't read version 4 of BrokerEndpoint\n"
    )
    assert "newer Kafka" in advice(log)
    assert "port" in advice("java.net.BindException: Address already in use\n")
