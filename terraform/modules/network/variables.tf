variable "name" {
  description = "Prefix of every name. Lower case, so that buckets can bear it too."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,24}$", var.name))
    error_message = "name: 2 to 25 of a-z, 0-9 and -, a letter first."
  }
}

variable "cidr" {
  description = "Addresses of the VPC. Pods take theirs from it (VPC CNI), so no smaller than /18."
  type        = string
  default     = "10.40.0.0/16"

  validation {
    condition     = can(cidrnetmask(var.cidr)) && tonumber(split("/", var.cidr)[1]) <= 18
    error_message = "cidr: an IPv4 block of /18 or larger."
  }
}

variable "zones" {
  description = "Availability zones. Three: Kafka keeps a record where one is lost."
  type        = number
  default     = 3

  validation {
    condition     = contains([2, 3], var.zones)
    error_message = "zones: 2 or 3."
  }
}

variable "single_nat" {
  description = "One NAT gateway for all zones: two thirds cheaper, and its zone takes all egress along."
  type        = bool
  default     = false
}

variable "endpoints" {
  description = "AWS services that are reached without the internet, by interface endpoints."
  type        = set(string)
  default     = ["ecr.api", "ecr.dkr", "kms", "logs", "secretsmanager", "sts"]
}

variable "flow_log_days" {
  description = "How long rejected and accepted flows are kept. DORA asks for network logs; a year is usual."
  type        = number
  default     = 365
}

variable "tags" {
  description = "Of every resource."
  type        = map(string)
  default     = {}
}
