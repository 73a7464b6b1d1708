# What of AWS each service may do, and the chart's values that follow from the other modules. A service
# that needs nothing of AWS has no role.

# Wraps the root keys of the keystore: without it nothing sealed in the log can be opened, and nothing
# more be sealed after a restart. Whoever destroys it has thirty days to think again.
module "key" {
  source      = "../key"
  description = "${var.name}: root keys of what is sealed in the compliance log"
  tags        = var.tags
}

locals {
  cell     = "${var.environment}/${var.region}"
  archive  = var.buckets["archive"]
  releases = var.buckets["releases"]
  log      = var.buckets["log"]
  roles    = toset(["decider-sync", "decider-stream", "auditor", "archiver", "labeller", "steps"])
  policies = merge(
    {
      decider-sync   = data.aws_iam_policy_document.decider.json
      decider-stream = data.aws_iam_policy_document.decider.json
      auditor        = data.aws_iam_policy_document.auditor.json
    },
    { for name, one in data.aws_iam_policy_document.archive : name => one.json },
  )
  # What each does with files of the archive. The steps of Airflow put small ones together, and delete
  # what they made them from; nobody else deletes one.
  archive_actions = {
    archiver = { files = ["s3:GetObject", "s3:PutObject"], key = ["kms:Decrypt", "kms:GenerateDataKey"] }
    labeller = { files = ["s3:GetObject"], key = ["kms:Decrypt"] }
    steps    = { files = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject"], key = ["kms:Decrypt", "kms:GenerateDataKey"] }
  }
}

data "aws_iam_policy_document" "archive" {
  for_each = local.archive_actions
  statement {
    sid       = "FindFiles"
    actions   = ["s3:ListBucket"]
    resources = [local.archive.arn]
    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = ["${local.cell}/*"]
    }
  }
  statement {
    sid       = "Files"
    actions   = each.value.files
    resources = ["${local.archive.arn}/${local.cell}/*"]
  }
  statement {
    sid       = "TheirKey"
    actions   = each.value.key
    resources = [local.archive.kms_key_arn]
  }
}

data "aws_iam_policy_document" "decider" {
  statement {
    sid       = "FindTheRelease"
    actions   = ["s3:ListBucket"]
    resources = [local.releases.arn]
    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = [var.release, "${var.release}/*"]
    }
  }
  statement {
    sid       = "ReadTheRelease"
    actions   = ["s3:GetObject"]
    resources = ["${local.releases.arn}/${var.release}/*"]
  }
  statement {
    sid       = "DecryptIt"
    actions   = ["kms:Decrypt"]
    resources = [local.releases.kms_key_arn]
  }
}

data "aws_iam_policy_document" "auditor" {
  # Nothing is deleted, no lock is lifted: s3:DeleteObject and s3:BypassGovernanceRetention are not here.
  statement {
    sid       = "CopyTheLog"
    actions   = ["s3:GetObject", "s3:PutObject", "s3:PutObjectRetention"]
    resources = ["${local.log.arn}/${local.cell}/*"]
  }
  statement {
    # Without it a file that is not there is refused rather than missing.
    sid       = "SeeWhatIsThere"
    actions   = ["s3:ListBucket"]
    resources = [local.log.arn]
    condition {
      test     = "StringLike"
      variable = "s3:prefix"
      values   = ["${local.cell}/*"]
    }
  }
  statement {
    sid       = "EncryptTheCopy"
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [local.log.kms_key_arn]
  }
  statement {
    sid       = "WrapRootKeys"
    actions   = ["kms:Encrypt", "kms:Decrypt"]
    resources = [module.key.arn]
    condition {
      test     = "StringEquals"
      variable = "kms:EncryptionContext:sluice:cell"
      values   = [local.cell]
    }
  }
}

resource "aws_iam_role" "this" {
  for_each           = local.roles
  name               = "${var.name}-${each.value}"
  assume_role_policy = var.pods_trust_policy
  tags               = var.tags
}

resource "aws_iam_role_policy" "this" {
  for_each = local.roles
  name     = "sluice"
  role     = aws_iam_role.this[each.value].id
  policy   = local.policies[each.value]
}

resource "aws_eks_pod_identity_association" "this" {
  for_each        = local.roles
  cluster_name    = var.cluster_name
  namespace       = var.namespace
  service_account = "${var.name}-${each.value}"
  role_arn        = aws_iam_role.this[each.value].arn
  tags            = var.tags
}

locals {
  values = {
    fullnameOverride = var.name
    image            = var.image
    model            = { storageUri = "s3://${local.releases.name}/${var.release}" }
    kafka = {
      mode = "external"
      external = {
        bootstrap        = var.kafka.bootstrap
        securityProtocol = "SASL_SSL"
        saslMechanism    = "SCRAM-SHA-512"
        existingSecrets  = var.kafka.secrets
      }
    }
    store = {
      mode     = "external"
      external = { existingSecrets = var.store.secrets }
    }
    topics   = { replication = 3 }
    storage  = { region = var.region }
    archiver = { root = "s3://${local.archive.name}/${local.cell}" }
    auditor = {
      environment = var.environment
      cell        = var.region
      copy        = { bucket = local.log.name, region = var.region, retainDays = var.log_lock_days }
      keystore = {
        kmsKey      = module.key.arn
        persistence = { storageClass = var.storage_class }
      }
      persistence = { storageClass = var.storage_class }
    }
    networkPolicy = {
      podIdentity = true
      kafka       = { to = [for cidr in var.private_cidrs : { ipBlock = { cidr = cidr } }] }
      store       = { to = [for cidr in var.private_cidrs : { ipBlock = { cidr = cidr } }] }
    }
  }
}
