mock_provider "aws" {
  mock_data "aws_region" {
    defaults = { name = "eu-central-1" }
  }
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }
  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555" }
  }
  mock_resource "aws_sns_topic" {
    defaults = { arn = "arn:aws:sns:eu-central-1:123456789012:sluice-alarms" }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-central-1:123456789012:log-group:/aws/prometheus/sluice" }
  }
  mock_resource "aws_prometheus_workspace" {
    defaults = { prometheus_endpoint = "https://aps.example/workspaces/ws-1/" }
  }
}

variables {
  name               = "sluice"
  kafka_cluster_name = "sluice"
  kafka_brokers      = 3
  store_nodes        = ["sluice-001", "sluice-002"]
  alarm_emails       = ["oncall@example.org"]
}

run "each_broker_and_each_node_is_watched" {
  assert {
    condition     = length(aws_cloudwatch_metric_alarm.this) == 2 + 3 * 2 + 2 * 2
    error_message = "two of the cluster, two a broker, two a node"
  }
  assert {
    condition     = alltrue([for alarm in aws_cloudwatch_metric_alarm.this : length(alarm.alarm_actions) == 1 && alarm.alarm_description != ""])
    error_message = "an alarm that nobody hears, or that says nothing"
  }
  assert {
    condition     = aws_cloudwatch_metric_alarm.this["kafka-no-controller"].comparison_operator == "LessThanThreshold"
    error_message = "a missing controller raises nothing"
  }
  assert {
    condition     = output.remote_write_url == "https://aps.example/workspaces/ws-1/api/v1/remote_write"
    error_message = "no address to write to"
  }
}
