# Brokers with TLS and SCRAM, three copies of each record of which two must be written, nothing made
# by itself: a topic that nobody made is a mistake, not a topic.

module "key" {
  source      = "../key"
  description = "${var.name}: brokers' disks, SCRAM secrets, log"
  log_group   = "/aws/msk/${var.name}"
  tags        = var.tags
}

resource "aws_security_group" "brokers" {
  name        = "${var.name}-kafka"
  description = "Kafka brokers"
  vpc_id      = var.vpc_id
  tags        = merge(var.tags, { Name = "${var.name}-kafka" })
}

resource "aws_vpc_security_group_ingress_rule" "scram" {
  for_each                     = var.client_security_group_ids
  security_group_id            = aws_security_group.brokers.id
  description                  = "SASL/SCRAM over TLS from ${each.key}"
  referenced_security_group_id = each.value
  from_port                    = 9096
  to_port                      = 9096
  ip_protocol                  = "tcp"
  tags                         = var.tags
}

resource "aws_cloudwatch_log_group" "brokers" {
  name              = "/aws/msk/${var.name}"
  retention_in_days = var.log_days
  kms_key_id        = module.key.arn
  tags              = var.tags
}

resource "aws_msk_configuration" "this" {
  name              = var.name
  kafka_versions    = [var.kafka_version]
  server_properties = <<-EOT
    auto.create.topics.enable=false
    default.replication.factor=3
    min.insync.replicas=2
    unclean.leader.election.enable=false
    transaction.state.log.replication.factor=3
    transaction.state.log.min.isr=2
    offsets.topic.replication.factor=3
    allow.everyone.if.no.acl.found=false
  EOT

  lifecycle {
    create_before_destroy = true
  }
}

resource "aws_msk_cluster" "this" {
  cluster_name           = var.name
  kafka_version          = var.kafka_version
  number_of_broker_nodes = length(var.subnet_ids) * var.brokers_a_zone

  broker_node_group_info {
    instance_type   = var.instance_type
    client_subnets  = var.subnet_ids
    security_groups = [aws_security_group.brokers.id]
    storage_info {
      ebs_storage_info {
        volume_size = var.volume_gib
      }
    }
    connectivity_info {
      public_access {
        type = "DISABLED"
      }
    }
  }

  client_authentication {
    unauthenticated = false
    sasl {
      scram = true
    }
  }

  encryption_info {
    encryption_at_rest_kms_key_arn = module.key.arn
    encryption_in_transit {
      client_broker = "TLS"
      in_cluster    = true
    }
  }

  configuration_info {
    arn      = aws_msk_configuration.this.arn
    revision = aws_msk_configuration.this.latest_revision
  }

  enhanced_monitoring = "PER_TOPIC_PER_BROKER"
  open_monitoring {
    prometheus {
      jmx_exporter {
        enabled_in_broker = true
      }
      node_exporter {
        enabled_in_broker = true
      }
    }
  }

  logging_info {
    broker_logs {
      cloudwatch_logs {
        enabled   = true
        log_group = aws_cloudwatch_log_group.brokers.name
      }
    }
  }

  tags = var.tags

  lifecycle {
    ignore_changes = [broker_node_group_info[0].storage_info[0].ebs_storage_info[0].volume_size] # grows
  }
}

resource "aws_msk_scram_secret_association" "this" {
  count           = length(var.scram_secret_arns) > 0 ? 1 : 0
  cluster_arn     = aws_msk_cluster.this.arn
  secret_arn_list = var.scram_secret_arns
}

resource "aws_appautoscaling_target" "disk" {
  min_capacity       = 1
  max_capacity       = var.volume_max_gib
  resource_id        = aws_msk_cluster.this.arn
  scalable_dimension = "kafka:broker-storage:VolumeSize"
  service_namespace  = "kafka"
  tags               = var.tags
}

resource "aws_appautoscaling_policy" "disk" {
  name               = "${var.name}-disk"
  policy_type        = "TargetTrackingScaling"
  resource_id        = aws_appautoscaling_target.disk.resource_id
  scalable_dimension = aws_appautoscaling_target.disk.scalable_dimension
  service_namespace  = aws_appautoscaling_target.disk.service_namespace

  target_tracking_scaling_policy_configuration {
    disable_scale_in = true
    target_value     = 60
    predefined_metric_specification {
      predefined_metric_type = "KafkaBrokerStorageUtilization"
    }
  }
}
