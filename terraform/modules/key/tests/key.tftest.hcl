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
}

variables {
  description = "a test"
}

run "nobody_but_the_account_by_default" {
  assert {
    condition     = [for s in data.aws_iam_policy_document.this.statement : s.sid] == ["Account"]
    error_message = "a service of AWS may use a key that is not for it"
  }
  assert {
    condition     = aws_kms_key.this.enable_key_rotation && aws_kms_key.this.deletion_window_in_days == 30
    error_message = "a key that never turns, or is gone at once"
  }
}

run "logs_and_alarms_of_this_account_where_named" {
  variables {
    log_group = "/sluice/*"
    alarms    = true
  }
  assert {
    condition     = [for s in data.aws_iam_policy_document.this.statement : s.sid] == ["Account", "Alarms", "CloudWatchLogs"]
    error_message = "not those that were named"
  }
  assert {
    condition     = one(one([for s in data.aws_iam_policy_document.this.statement : s.condition if s.sid == "CloudWatchLogs"])).values == tolist(["arn:aws:logs:eu-central-1:123456789012:log-group:/sluice/*"])
    error_message = "logs of others"
  }
}
