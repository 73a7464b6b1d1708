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
  mock_resource "aws_msk_configuration" {
    defaults = { arn = "arn:aws:kafka:eu-central-1:123456789012:configuration/sluice/1", latest_revision = 1 }
  }
  mock_resource "aws_msk_cluster" {
    defaults = {
      arn                          = "arn:aws:kafka:eu-central-1:123456789012:cluster/sluice/1"
      bootstrap_brokers_sasl_scram = "b-1.sluice.example:9096,b-2.sluice.example:9096,b-3.sluice.example:9096"
    }
  }
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-central-1:123456789012:log-group:/aws/msk/sluice" }
  }
}

variables {
  name                      = "sluice"
  vpc_id                    = "vpc-1"
  subnet_ids                = ["subnet-1", "subnet-2", "subnet-3"]
  client_security_group_ids = { pods = "sg-1" }
}

run "nobody_without_a_name_and_tls" {
  assert {
    condition     = aws_msk_cluster.this.client_authentication[0].unauthenticated == false && aws_msk_cluster.this.client_authentication[0].sasl[0].scram
    error_message = "a client without a name gets in"
  }
  assert {
    condition     = aws_msk_cluster.this.encryption_info[0].encryption_in_transit[0].client_broker == "TLS"
    error_message = "records cross the network in clear"
  }
  assert {
    condition     = aws_msk_cluster.this.broker_node_group_info[0].connectivity_info[0].public_access[0].type == "DISABLED"
    error_message = "brokers are on the internet"
  }
  assert {
    condition     = alltrue([for rule in aws_vpc_security_group_ingress_rule.scram : rule.from_port == 9096 && rule.cidr_ipv4 == null])
    error_message = "somebody but the pods gets in"
  }
}

run "a_record_outlives_a_broker" {
  assert {
    condition     = aws_msk_cluster.this.number_of_broker_nodes == 3
    error_message = "three brokers keep three copies"
  }
  assert {
    condition = alltrue([for line in [
      "min.insync.replicas=2",
      "unclean.leader.election.enable=false",
      "transaction.state.log.min.isr=2",
      "auto.create.topics.enable=false",
      "allow.everyone.if.no.acl.found=false",
    ] : strcontains(aws_msk_configuration.this.server_properties, line)])
    error_message = "a broker's setting that durability or access needs is missing"
  }
}

run "secrets_are_bound_when_there_are_some" {
  variables {
    scram_secret_arns = ["arn:aws:secretsmanager:eu-central-1:123456789012:secret:AmazonMSK_decider-AbCdEf"]
  }
  assert {
    condition     = length(aws_msk_scram_secret_association.this) == 1
    error_message = "no principal can log in"
  }
}

run "one_zone_is_refused" {
  command = plan
  variables {
    subnet_ids = ["subnet-1"]
  }
  expect_failures = [var.subnet_ids]
}
