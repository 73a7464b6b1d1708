output "url" {
  description = "Of the node that writes: the chart's store.external.url, without user and password."
  value       = "rediss://${aws_elasticache_replication_group.this.primary_endpoint_address}:6379/0"
}

output "group_id" {
  description = "For alarms."
  value       = aws_elasticache_replication_group.this.id
}

output "nodes" {
  description = "Ids of the nodes, for alarms."
  value       = [for n in range(1 + var.replicas) : format("%s-%03d", var.name, n + 1)]
}
