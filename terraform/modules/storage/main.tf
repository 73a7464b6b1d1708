# Three buckets: the archive (the feature log and training sets), releases, and the copies of the
# compliance log. A key each, so that a role reads one and not the others.
#
# The log's has Object Lock and no default retention: the auditor locks whole tiles and checkpoints of
# the past itself (auditor.copy.retainDays), while `checkpoint` is written anew all the time, and each
# of its versions would stay for years.

locals {
  buckets = toset(["archive", "releases", "log"])
  rules = merge([
    for bucket, classes in var.retention_days : {
      for prefix, days in classes : "${bucket}/${prefix}" => { bucket = bucket, prefix = prefix, days = days }
    }
  ]...)
}

module "key" {
  source      = "../key"
  for_each    = local.buckets
  description = "${var.name}: bucket ${each.value}"
  tags        = var.tags
}

resource "aws_s3_bucket" "this" {
  # checkov:skip=CKV_AWS_18:Who read what is in CloudTrail's data events, an account's own matter.
  # checkov:skip=CKV_AWS_144:A cell is one region; personal data does not leave it (DESIGN 8).
  # checkov:skip=CKV2_AWS_62:Nothing of Sluice waits for an object.
  for_each            = local.buckets
  bucket              = "${var.name}-${each.value}"
  object_lock_enabled = each.value == "log"
  force_destroy       = false
  tags                = var.tags
}

resource "aws_s3_bucket_versioning" "this" {
  for_each = local.buckets
  bucket   = aws_s3_bucket.this[each.value].id
  versioning_configuration {
    status = "Enabled"
  }
}

resource "aws_s3_bucket_server_side_encryption_configuration" "this" {
  for_each = local.buckets
  bucket   = aws_s3_bucket.this[each.value].id
  rule {
    bucket_key_enabled = true
    apply_server_side_encryption_by_default {
      sse_algorithm     = "aws:kms"
      kms_master_key_id = module.key[each.value].arn
    }
  }
}

resource "aws_s3_bucket_public_access_block" "this" {
  for_each                = local.buckets
  bucket                  = aws_s3_bucket.this[each.value].id
  block_public_acls       = true
  block_public_policy     = true
  ignore_public_acls      = true
  restrict_public_buckets = true
}

resource "aws_s3_bucket_ownership_controls" "this" {
  for_each = local.buckets
  bucket   = aws_s3_bucket.this[each.value].id
  rule {
    object_ownership = "BucketOwnerEnforced"
  }
}

data "aws_iam_policy_document" "tls" {
  for_each = local.buckets
  statement {
    sid       = "OnlyTls"
    effect    = "Deny"
    actions   = ["s3:*"]
    resources = [aws_s3_bucket.this[each.value].arn, "${aws_s3_bucket.this[each.value].arn}/*"]
    principals {
      type        = "*"
      identifiers = ["*"]
    }
    condition {
      test     = "Bool"
      variable = "aws:SecureTransport"
      values   = ["false"]
    }
  }
}

resource "aws_s3_bucket_policy" "tls" {
  for_each   = local.buckets
  bucket     = aws_s3_bucket.this[each.value].id
  policy     = data.aws_iam_policy_document.tls[each.value].json
  depends_on = [aws_s3_bucket_public_access_block.this]
}

resource "aws_s3_bucket_lifecycle_configuration" "this" {
  # checkov:skip=CKV_AWS_300:Its first rule does, for every bucket; checkov does not see it beside dynamic ones.
  for_each = local.buckets
  bucket   = aws_s3_bucket.this[each.value].id

  rule {
    id     = "left over"
    status = "Enabled"
    filter {}
    abort_incomplete_multipart_upload {
      days_after_initiation = 7
    }
    # What was overwritten or deleted. An erasure rewrites the archive: its old versions go first. Of
    # the log these are old versions of `checkpoint`; what is locked stays.
    noncurrent_version_expiration {
      noncurrent_days = { archive = 1, log = 30, releases = 90 }[each.value]
    }
  }

  dynamic "rule" {
    for_each = each.value == "archive" ? [var.cold_after_days] : []
    content {
      id     = "cold"
      status = "Enabled"
      filter {}
      transition {
        days          = rule.value
        storage_class = "GLACIER_IR"
      }
    }
  }

  dynamic "rule" {
    for_each = { for name, rule in local.rules : name => rule if rule.bucket == each.value }
    content {
      id     = "retention ${rule.key}"
      status = "Enabled"
      filter {
        prefix = rule.value.prefix
      }
      expiration {
        days = rule.value.days
      }
    }
  }

  depends_on = [aws_s3_bucket_versioning.this]
}
