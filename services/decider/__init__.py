"""The decider: the decision pipeline behind HTTP (KServe's predictor) and on Kafka."""
