# What Sluice's own metrics cannot say of the brokers and the store that it is given, and a place for
# those metrics: the chart's ServiceMonitors and alert rules go to the workspace's Prometheus.

module "key" {
  source      = "../key"
  description = "${var.name}: alarms and metrics"
  log_group   = "/aws/prometheus/${var.name}"
  alarms      = true
  tags        = var.tags
}

resource "aws_cloudwatch_log_group" "prometheus" {
  name              = "/aws/prometheus/${var.name}"
  retention_in_days = 365
  kms_key_id        = module.key.arn
  tags              = var.tags
}

resource "aws_prometheus_workspace" "this" {
  alias       = var.name
  kms_key_arn = module.key.arn
  logging_configuration {
    log_group_arn = "${aws_cloudwatch_log_group.prometheus.arn}:*"
  }
  tags = var.tags
}

resource "aws_sns_topic" "alarms" {
  name              = "${var.name}-alarms"
  kms_master_key_id = module.key.id
  tags              = var.tags
}

resource "aws_sns_topic_subscription" "mail" {
  for_each  = var.alarm_emails
  topic_arn = aws_sns_topic.alarms.arn
  protocol  = "email"
  endpoint  = each.value
}

locals {
  cluster = { "Cluster Name" = var.kafka_cluster_name }
  brokers = { for n in range(1, var.kafka_brokers + 1) : tostring(n) => merge(local.cluster, { "Broker ID" = tostring(n) }) }
  nodes   = { for id in var.store_nodes : id => { CacheClusterId = id } }

  alarms = merge(
    {
      "kafka-offline-partitions" = {
        namespace = "AWS/Kafka", metric = "OfflinePartitionsCount", statistic = "Maximum", dimensions = local.cluster
        over      = 0, minutes = 1
        what      = "Partitions without a leader: what belongs there is refused. docs/runbooks/broker-down.md"
      }
      "kafka-no-controller" = {
        namespace = "AWS/Kafka", metric = "ActiveControllerCount", statistic = "Maximum", dimensions = local.cluster
        under     = 1, minutes = 5
        what      = "No controller: no leader is chosen. docs/runbooks/broker-down.md"
      }
    },
    {
      for n, dimensions in local.brokers : "kafka-disk-${n}" => {
        namespace = "AWS/Kafka", metric = "KafkaDataLogsDiskUsed", statistic = "Maximum", dimensions = dimensions
        over      = 80, minutes = 5
        what      = "A broker's disk is 80 % full, and did not grow by itself."
      }
    },
    {
      for n, dimensions in local.brokers : "kafka-under-min-isr-${n}" => {
        namespace = "AWS/Kafka", metric = "UnderMinIsrPartitionCount", statistic = "Maximum", dimensions = dimensions
        over      = 0, minutes = 2
        what      = "Partitions with fewer copies than a record needs: nothing is decided there. docs/runbooks/broker-down.md"
      }
    },
    {
      for id, dimensions in local.nodes : "store-memory-${id}" => {
        namespace = "AWS/ElastiCache", metric = "DatabaseMemoryUsagePercentage", statistic = "Maximum", dimensions = dimensions
        over      = 75, minutes = 5
        what      = "The store is three quarters full; when it is full it refuses states. docs/runbooks/store-down.md"
      }
    },
    {
      for id, dimensions in local.nodes : "store-evictions-${id}" => {
        namespace = "AWS/ElastiCache", metric = "Evictions", statistic = "Sum", dimensions = dimensions
        over      = 0, minutes = 1
        what      = "The store forgot states: its policy is no longer noeviction. docs/runbooks/store-down.md"
      }
    },
  )
}

resource "aws_cloudwatch_metric_alarm" "this" {
  for_each            = local.alarms
  alarm_name          = "${var.name}-${each.key}"
  alarm_description   = each.value.what
  namespace           = each.value.namespace
  metric_name         = each.value.metric
  statistic           = each.value.statistic
  dimensions          = each.value.dimensions
  comparison_operator = try(each.value.over, null) != null ? "GreaterThanThreshold" : "LessThanThreshold"
  threshold           = try(each.value.over, null) != null ? each.value.over : each.value.under
  period              = 60
  evaluation_periods  = each.value.minutes
  treat_missing_data  = startswith(each.key, "store-evictions") ? "notBreaching" : "breaching"
  alarm_actions       = [aws_sns_topic.alarms.arn]
  ok_actions          = [aws_sns_topic.alarms.arn]
  tags                = var.tags
}
