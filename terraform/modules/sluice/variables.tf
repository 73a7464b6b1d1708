variable "name" {
  description = "Of the Helm release; the chart's names begin with it."
  type        = string

  validation {
    condition     = can(regex("^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$", var.name))
    error_message = "name: at most 40 of a-z, 0-9 and -, a letter first."
  }
}

variable "namespace" {
  description = "Where it is installed."
  type        = string
}

variable "cluster_name" {
  description = "The EKS cluster."
  type        = string
}

variable "pods_trust_policy" {
  description = "Assume-role policy of a pod's role, of module eks."
  type        = string
}

variable "region" {
  description = "The cell: no personal data leaves it."
  type        = string
}

variable "environment" {
  description = "First part of the compliance logs' names, like bank.example. Never another one's, never changed."
  type        = string

  validation {
    condition     = can(regex("^[A-Za-z0-9._-]{1,64}$", var.environment))
    error_message = "environment: 1 to 64 of letters, digits, dot, _ and -."
  }
}

variable "buckets" {
  description = "archive, releases and log, of module storage."
  type        = map(object({ name = string, arn = string, kms_key_arn = string }))

  validation {
    condition     = alltrue([for needed in ["archive", "releases", "log"] : contains(keys(var.buckets), needed)])
    error_message = "buckets: archive, releases and log."
  }
}

variable "release" {
  description = "Folder of the model release in the bucket of releases."
  type        = string
}

variable "log_lock_days" {
  description = "For so many days nobody, not even the account's root, deletes whole tiles and checkpoints of the log's copy (Object Lock, compliance mode). PCI DSS 10.5.1 asks for twelve months."
  type        = number
  default     = 1827 # five years, and the day of a leap year

  validation {
    condition     = var.log_lock_days >= 365 && var.log_lock_days <= 36500
    error_message = "log_lock_days: 365 to 36500."
  }
}

variable "image" {
  description = "Repository and digest of the services' image."
  type        = object({ repository = string, digest = string })

  validation {
    condition     = can(regex("^sha256:[0-9a-f]{64}$", var.image.digest))
    error_message = "image.digest: sha256: and 64 hex digits. A tag can be another image tomorrow."
  }
}

variable "kafka" {
  description = "Bootstrap addresses, and the Secret of each principal in the namespace (user name and password of SCRAM)."
  type        = object({ bootstrap = string, secrets = map(string) })
}

variable "store" {
  description = "Secrets with the whole URL for decider and featurizer."
  type        = object({ secrets = object({ decider = string, featurizer = string }) })
}

variable "private_cidrs" {
  description = "Where brokers and store live; no pod reaches another address by their ports."
  type        = list(string)
}

variable "storage_class" {
  description = "Of volumes: gp3 of the EBS driver, say."
  type        = string
  default     = "gp3"
}

variable "tags" {
  description = "Of every resource."
  type        = map(string)
  default     = {}
}
