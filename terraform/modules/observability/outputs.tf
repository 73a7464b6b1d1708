output "remote_write_url" {
  description = "Where a Prometheus in the cluster sends its samples."
  value       = "${aws_prometheus_workspace.this.prometheus_endpoint}api/v1/remote_write"
}

output "workspace_arn" {
  description = "For the role that may write there."
  value       = aws_prometheus_workspace.this.arn
}

output "alarm_topic_arn" {
  description = "A pager subscribes to it."
  value       = aws_sns_topic.alarms.arn
}
