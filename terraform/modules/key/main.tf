# A key for one purpose, which turns by itself and takes thirty days to be gone. The account decides by
# IAM who uses it; of AWS's own services only those that are named do, and only for this account.

data "aws_region" "here" {}
data "aws_caller_identity" "here" {}

locals {
  account = data.aws_caller_identity.here.account_id
  region  = data.aws_region.here.name
}

data "aws_iam_policy_document" "this" {
  # checkov:skip=CKV_AWS_109:A key policy's resource is the key itself; the account delegates to IAM.
  # checkov:skip=CKV_AWS_111:As above.
  # checkov:skip=CKV_AWS_356:As above.
  statement {
    sid       = "Account"
    actions   = ["kms:*"]
    resources = ["*"]
    principals {
      type        = "AWS"
      identifiers = ["arn:aws:iam::${local.account}:root"]
    }
  }

  dynamic "statement" {
    for_each = var.alarms ? [local.account] : []
    content {
      sid       = "Alarms"
      actions   = ["kms:Decrypt", "kms:GenerateDataKey*"]
      resources = ["*"]
      principals {
        type        = "Service"
        identifiers = ["cloudwatch.amazonaws.com"]
      }
      condition {
        test     = "StringEquals"
        variable = "aws:SourceAccount"
        values   = [statement.value]
      }
    }
  }

  dynamic "statement" {
    for_each = var.log_group == "" ? [] : [var.log_group]
    content {
      sid       = "CloudWatchLogs"
      actions   = ["kms:Encrypt", "kms:Decrypt", "kms:ReEncrypt*", "kms:GenerateDataKey*", "kms:DescribeKey"]
      resources = ["*"]
      principals {
        type        = "Service"
        identifiers = ["logs.${local.region}.amazonaws.com"]
      }
      condition {
        test     = "ArnLike"
        variable = "kms:EncryptionContext:aws:logs:arn"
        values   = ["arn:aws:logs:${local.region}:${local.account}:log-group:${statement.value}"]
      }
    }
  }
}

resource "aws_kms_key" "this" {
  description             = var.description
  enable_key_rotation     = true
  deletion_window_in_days = 30
  policy                  = data.aws_iam_policy_document.this.json
  tags                    = var.tags
}
