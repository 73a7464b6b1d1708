"""Kafka through confluent-kafka (librdkafka): topics, producers, consumers, transactions.

``config.py`` names every limit and translates errors; the other modules hold one client each.
"""
