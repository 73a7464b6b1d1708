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
}

variables {
  name = "bank-sluice"
}

run "the_log_is_locked_and_nothing_else" {
  assert {
    condition     = [for name, bucket in aws_s3_bucket.this : name if bucket.object_lock_enabled] == ["log"]
    error_message = "the log must be locked; the archive must not, or nobody could be erased"
  }
}

run "nothing_is_public_or_in_clear" {
  assert {
    condition     = alltrue([for block in aws_s3_bucket_public_access_block.this : block.block_public_acls && block.block_public_policy && block.ignore_public_acls && block.restrict_public_buckets])
    error_message = "a bucket can be public"
  }
  assert {
    condition     = length(aws_s3_bucket_policy.tls) == 3 && length(aws_s3_bucket_server_side_encryption_configuration.this) == 3
    error_message = "a bucket without TLS or key"
  }
}

run "an_erasure_is_no_old_version" {
  assert {
    condition     = one([for rule in aws_s3_bucket_lifecycle_configuration.this["archive"].rule : rule.noncurrent_version_expiration[0].noncurrent_days if rule.id == "left over"]) == 1
    error_message = "what was erased lies on as an old version"
  }
}

run "classes_become_rules" {
  variables {
    retention_days = { archive = { "labels/" = 760, "decisions/" = 400 }, releases = {} }
  }
  assert {
    condition = {
      for rule in aws_s3_bucket_lifecycle_configuration.this["archive"].rule : rule.filter[0].prefix => rule.expiration[0].days if startswith(rule.id, "retention")
    } == { "labels/" = 760, "decisions/" = 400 }
    error_message = "a class has no rule of its own"
  }
}

run "the_log_has_no_other_retention" {
  command = plan
  variables {
    retention_days = { log = { "" = 10 } }
  }
  expect_failures = [var.retention_days]
}
