"""The harness: traffic, deployments of processes, and recounts of what they did."""
