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
  mock_resource "aws_iam_role" {
    defaults = { arn = "arn:aws:iam::123456789012:role/sluice" }
  }
}

variables {
  name              = "sluice"
  namespace         = "fraud"
  cluster_name      = "sluice"
  pods_trust_policy = "{}"
  region            = "eu-central-1"
  environment       = "bank.example"
  buckets = {
    archive  = { name = "bank-archive", arn = "arn:aws:s3:::bank-archive", kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/a" }
    releases = { name = "bank-releases", arn = "arn:aws:s3:::bank-releases", kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/b" }
    log      = { name = "bank-log", arn = "arn:aws:s3:::bank-log", kms_key_arn = "arn:aws:kms:eu-central-1:123456789012:key/c" }
  }
  release = "r42"
  image = {
    repository = "123456789012.dkr.ecr.eu-central-1.amazonaws.com/sluice/sluice"
    digest     = "sha256:0f3c1f4d2f2a5c7e9b8d6a4c3e1f0b9a8d7c6e5f4a3b2c1d0e9f8a7b6c5d4e3f"
  }
  kafka         = { bootstrap = "b-1.example:9096,b-2.example:9096", secrets = { decider-sync = "kafka-decider-sync" } }
  store         = { secrets = { decider = "store-decider", featurizer = "store-featurizer" } }
  private_cidrs = ["10.40.0.0/18"]
}

run "a_service_may_what_it_does" {
  assert {
    condition     = alltrue([for s in data.aws_iam_policy_document.auditor.statement : !contains(s.actions, "s3:DeleteObject") && !contains(s.resources, "*")])
    error_message = "the auditor can delete, or touch anything"
  }
  assert {
    condition     = alltrue([for s in data.aws_iam_policy_document.decider.statement : alltrue([for action in s.actions : contains(["s3:ListBucket", "s3:GetObject", "kms:Decrypt"], action)])])
    error_message = "a decider can write"
  }
  assert {
    condition     = { for name, one in aws_eks_pod_identity_association.this : name => one.service_account } == { "archiver" = "sluice-archiver", "auditor" = "sluice-auditor", "decider-stream" = "sluice-decider-stream", "decider-sync" = "sluice-decider-sync", "labeller" = "sluice-labeller", "steps" = "sluice-steps" }
    error_message = "not the accounts of the chart"
  }
}

run "of_the_archive_each_may_what_it_does_in_its_own_cell" {
  assert {
    condition     = { for name, one in data.aws_iam_policy_document.archive : name => one.statement[1].actions } == { archiver = toset(["s3:GetObject", "s3:PutObject"]), labeller = toset(["s3:GetObject"]), steps = toset(["s3:GetObject", "s3:PutObject", "s3:DeleteObject"]) }
    error_message = "more or less than its work"
  }
  assert {
    condition     = alltrue([for one in data.aws_iam_policy_document.archive : one.statement[1].resources == toset(["arn:aws:s3:::bank-archive/bank.example/eu-central-1/*"])])
    error_message = "files of another cell"
  }
  assert {
    condition     = length(local.policies) == length(local.roles)
    error_message = "a role without a policy"
  }
}

run "values_follow" {
  assert {
    condition     = yamldecode(output.values).archiver.root == "s3://bank-archive/bank.example/eu-central-1"
    error_message = "another archive"
  }
  assert {
    condition     = yamldecode(output.values).model.storageUri == "s3://bank-releases/r42"
    error_message = "another release"
  }
  assert {
    condition     = yamldecode(output.values).auditor.copy == { bucket = "bank-log", region = "eu-central-1", retainDays = 1827 }
    error_message = "the log is not copied, or not locked"
  }
  assert {
    condition     = yamldecode(output.values).networkPolicy.kafka.to[0].ipBlock.cidr == "10.40.0.0/18"
    error_message = "brokers anywhere"
  }
}

run "a_tag_instead_of_a_digest_is_refused" {
  command = plan
  variables {
    image = { repository = "sluice", digest = "latest" }
  }
  expect_failures = [var.image]
}

run "a_lock_of_a_month_is_refused" {
  command = plan
  variables {
    log_lock_days = 30
  }
  expect_failures = [var.log_lock_days]
}
