output "bootstrap" {
  description = "Brokers for SASL/SCRAM over TLS: the chart's kafka.external.bootstrap."
  value       = aws_msk_cluster.this.bootstrap_brokers_sasl_scram
}

output "cluster_arn" {
  description = "For IAM policies and alarms."
  value       = aws_msk_cluster.this.arn
}

output "cluster_name" {
  description = "For alarms."
  value       = aws_msk_cluster.this.cluster_name
}

output "brokers" {
  description = "How many."
  value       = aws_msk_cluster.this.number_of_broker_nodes
}

output "kms_key_arn" {
  description = "Key that SCRAM secrets must be under."
  value       = module.key.arn
}
