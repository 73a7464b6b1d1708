"""The decider: the walk behind HTTP (KServe's predictor) and on Kafka."""
