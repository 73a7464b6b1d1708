# One writable node and its replicas, TLS and a user a service. It forgets nothing by itself: a store
# that may evict counts as lost (ADR 33).

module "key" {
  source      = "../key"
  description = "${var.name}: the online store's disks and snapshots"
  tags        = var.tags
}

resource "aws_security_group" "store" {
  name        = "${var.name}-store"
  description = "Online store"
  vpc_id      = var.vpc_id
  tags        = merge(var.tags, { Name = "${var.name}-store" })
}

resource "aws_vpc_security_group_ingress_rule" "store" {
  for_each                     = var.client_security_group_ids
  security_group_id            = aws_security_group.store.id
  description                  = "From ${each.key}"
  referenced_security_group_id = each.value
  from_port                    = 6379
  to_port                      = 6379
  ip_protocol                  = "tcp"
  tags                         = var.tags
}

resource "aws_elasticache_subnet_group" "this" {
  name       = var.name
  subnet_ids = var.subnet_ids
  tags       = var.tags
}

resource "aws_elasticache_parameter_group" "this" {
  name        = var.name
  description = "Refuses when full"
  family      = "valkey${split(".", var.engine_version)[0]}"

  parameter {
    name  = "maxmemory-policy"
    value = "noeviction"
  }
  tags = var.tags

  lifecycle {
    create_before_destroy = true
  }
}

# A group has a user named default; this one can do nothing.
resource "aws_elasticache_user" "default" {
  user_id       = "${var.name}-default"
  user_name     = "default"
  engine        = "valkey"
  access_string = "off -@all"
  authentication_mode {
    type = "no-password-required"
  }
  tags = var.tags
}

resource "aws_elasticache_user" "service" {
  for_each      = { decider = var.access_strings.decider, featurizer = var.access_strings.featurizer }
  user_id       = "${var.name}-${each.key}"
  user_name     = each.key
  engine        = "valkey"
  access_string = each.value
  authentication_mode {
    type      = "password"
    passwords = var.passwords[each.key]
  }
  tags = var.tags
}

resource "aws_elasticache_user_group" "this" {
  user_group_id = var.name
  engine        = "valkey"
  user_ids      = concat([aws_elasticache_user.default.user_id], [for user in aws_elasticache_user.service : user.user_id])
  tags          = var.tags
}

resource "aws_elasticache_replication_group" "this" {
  # checkov:skip=CKV_AWS_31:Each service has a user and a password of its own, which is more than one token.
  replication_group_id       = var.name
  description                = "States of cards, terminals, merchants and devices"
  engine                     = "valkey"
  engine_version             = var.engine_version
  node_type                  = var.node_type
  num_cache_clusters         = 1 + var.replicas
  multi_az_enabled           = true
  automatic_failover_enabled = true
  parameter_group_name       = aws_elasticache_parameter_group.this.name
  subnet_group_name          = aws_elasticache_subnet_group.this.name
  security_group_ids         = [aws_security_group.store.id]
  user_group_ids             = [aws_elasticache_user_group.this.user_group_id]
  transit_encryption_enabled = true
  transit_encryption_mode    = "required"
  at_rest_encryption_enabled = true
  kms_key_id                 = module.key.arn
  snapshot_retention_limit   = var.snapshot_days
  auto_minor_version_upgrade = true
  apply_immediately          = false
  tags                       = var.tags
}
