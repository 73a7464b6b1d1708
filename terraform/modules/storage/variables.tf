variable "name" {
  description = "Prefix of the buckets' names, which are unique in all of AWS: take one with your firm's name."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,40}$", var.name))
    error_message = "name: 2 to 41 of a-z, 0-9 and -."
  }
}

variable "retention_days" {
  description = "Retention classes: days after which what lies under a prefix of a bucket goes, `{archive = {\"\" = 1100}}`. An erasure goes before. Not of the log: there the auditor locks each file for as long as `auditor.copy.retainDays` says."
  type        = map(map(number))
  default = {
    archive  = { "" = 1100 }
    releases = {}
  }

  validation {
    condition     = alltrue([for bucket in keys(var.retention_days) : contains(["archive", "releases"], bucket)])
    error_message = "retention_days: of archive and releases; the log's files are locked by the auditor."
  }
}

variable "cold_after_days" {
  description = "After how many days the archive moves to a cheaper class whose objects are still read at once."
  type        = number
  default     = 90

  validation {
    condition     = var.cold_after_days >= 30
    error_message = "cold_after_days: S3 takes 30 or more."
  }
}

variable "tags" {
  description = "Of every resource."
  type        = map(string)
  default     = {}
}
