# The whole cell, planned and applied against a mock: no account, no network.

mock_provider "aws" {
  mock_data "aws_availability_zones" {
    defaults = { names = ["eu-central-1a", "eu-central-1b", "eu-central-1c"] }
  }
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
  mock_resource "aws_cloudwatch_log_group" {
    defaults = { arn = "arn:aws:logs:eu-central-1:123456789012:log-group:/sluice/flow" }
  }
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/sluice" }
  }
  mock_resource "aws_launch_template" {
    defaults = { id = "lt-0123456789abcdef0", latest_version = 1 }
  }
  mock_resource "aws_eks_cluster" {
    defaults = { certificate_authority = [{ data = "Q0E=" }] }
  }
  mock_resource "aws_msk_configuration" {
    defaults = { arn = "arn:aws:kafka:eu-central-1:123456789012:configuration/sluice/1", latest_revision = 1 }
  }
  mock_resource "aws_msk_cluster" {
    defaults = {
      arn                          = "arn:aws:kafka:eu-central-1:123456789012:cluster/sluice/1"
      bootstrap_brokers_sasl_scram = "b-1.example.org:9096,b-2.example.org:9096,b-3.example.org:9096"
    }
  }
  mock_resource "aws_elasticache_replication_group" {
    defaults = { primary_endpoint_address = "master.example.org" }
  }
  mock_resource "aws_sns_topic" {
    defaults = { arn = "arn:aws:sns:eu-central-1:123456789012:sluice-alarms" }
  }
  mock_resource "aws_prometheus_workspace" {
    defaults = { prometheus_endpoint = "https://aps.example.org/workspaces/ws-1/" }
  }
  mock_resource "aws_ecr_repository" {
    defaults = { repository_url = "registry.example.org/sluice/sluice" }
  }
  mock_resource "aws_s3_bucket" {
    defaults = { arn = "arn:aws:s3:::bank-sluice-log" }
  }
}

variables {
  bucket_prefix   = "bank-sluice"
  region          = "eu-central-1"
  environment     = "bank.example"
  admins          = ["arn:aws:iam::123456789012:role/platform"]
  image_digest    = "sha256:0f3c1f4d2f2a5c7e9b8d6a4c3e1f0b9a8d7c6e5f4a3b2c1d0e9f8a7b6c5d4e3f"
  release         = "r42"
  store_passwords = { decider = ["0123456789abcdef"], featurizer = ["fedcba9876543210"] }
}

run "values_hold_what_the_modules_made" {
  assert {
    condition     = yamldecode(output.values).kafka.external.bootstrap == "b-1.example.org:9096,b-2.example.org:9096,b-3.example.org:9096"
    error_message = "other brokers"
  }
  assert {
    condition     = yamldecode(output.values).auditor.copy.bucket == "bank-sluice-log" && yamldecode(output.values).model.storageUri == "s3://bank-sluice-releases/r42" && yamldecode(output.values).archiver.root == "s3://bank-sluice-archive/bank.example/eu-central-1"
    error_message = "other buckets"
  }
  assert {
    condition     = output.store_url == "rediss://master.example.org:6379/0"
    error_message = "another store"
  }
  assert {
    condition     = length(output.cluster.certificate_authority) > 0
    error_message = "no way to the cluster"
  }
}
