"""Apache Spark as an engine: which partition is computed on which machine, and what is shuffled.

What is computed is the library's own, as on one machine; see
docs/decisions/0066-spark-spreads-it-does-not-compute.md. Where Spark runs is Spark's configuration:
spark-submit, SPARK_REMOTE, spark-defaults.conf. Only what Spark Connect has too is used.
"""
