mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{}" }
  }
  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:eu-central-1:123456789012:key/11111111-2222-3333-4444-555555555555" }
  }
  mock_resource "aws_elasticache_replication_group" {
    defaults = { primary_endpoint_address = "master.sluice.example" }
  }
}

variables {
  name                      = "sluice"
  vpc_id                    = "vpc-1"
  subnet_ids                = ["subnet-1", "subnet-2"]
  client_security_group_ids = { pods = "sg-1" }
  passwords                 = { decider = ["0123456789abcdef"], featurizer = ["fedcba9876543210"] }
}

run "it_forgets_nothing" {
  assert {
    condition     = one([for p in aws_elasticache_parameter_group.this.parameter : p.value if p.name == "maxmemory-policy"]) == "noeviction"
    error_message = "a store that may evict counts as lost"
  }
  assert {
    condition     = aws_elasticache_parameter_group.this.family == "valkey8"
    error_message = "of another engine"
  }
}

run "nobody_without_a_user_and_tls" {
  assert {
    condition     = aws_elasticache_replication_group.this.transit_encryption_mode == "required"
    error_message = "in clear"
  }
  assert {
    condition     = startswith(aws_elasticache_user.default.access_string, "off")
    error_message = "the default user can do something"
  }
  assert {
    condition     = output.url == "rediss://master.sluice.example:6379/0"
    error_message = "an address that the chart does not take"
  }
}

run "another_zone_takes_over" {
  assert {
    condition     = aws_elasticache_replication_group.this.multi_az_enabled && aws_elasticache_replication_group.this.num_cache_clusters == 2
    error_message = "a lost zone is a lost store"
  }
}

run "a_short_password_is_refused" {
  command = plan
  variables {
    passwords = { decider = ["short"], featurizer = ["fedcba9876543210"] }
  }
  expect_failures = [var.passwords]
}

run "a_store_without_a_replica_is_refused" {
  command = plan
  variables {
    replicas = 0
  }
  expect_failures = [var.replicas]
}
