variable "name" {
  description = "Of the MSK cluster."
  type        = string
}

variable "vpc_id" {
  description = "Where the brokers live."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets, one a zone. Brokers are a multiple of them."
  type        = list(string)

  validation {
    condition     = contains([2, 3], length(var.subnet_ids))
    error_message = "subnet_ids: MSK takes two or three zones."
  }
}

variable "client_security_group_ids" {
  description = "Who may speak to the brokers, by name: the pods' group."
  type        = map(string)
}

variable "kafka_version" {
  description = "As MSK spells it. Sluice is tested with Apache Kafka 4.2 (ADR 17); transactions and ListOffsets are all it needs of 3.x and newer."
  type        = string
  default     = "3.9.x.kraft"
}

variable "brokers_a_zone" {
  description = "Brokers in each zone."
  type        = number
  default     = 1
}

variable "instance_type" {
  description = "Of each broker."
  type        = string
  default     = "kafka.m7g.large"
}

variable "volume_gib" {
  description = "Of each broker at first; it grows by itself to volume_max_gib."
  type        = number
  default     = 500
}

variable "volume_max_gib" {
  description = "How far the volume grows by itself."
  type        = number
  default     = 4096

  validation {
    condition     = var.volume_max_gib <= 16384
    error_message = "volume_max_gib: MSK's volumes end at 16384 GiB."
  }
}

variable "scram_secret_arns" {
  description = "Secrets Manager secrets named AmazonMSK_*, one a principal, `{\"username\":…,\"password\":…}`, under kms_key_arn. Made outside, so that no password stands in Terraform's state."
  type        = list(string)
  default     = []
}

variable "log_days" {
  description = "How long the brokers' own log is kept."
  type        = number
  default     = 365
}

variable "tags" {
  description = "Of every resource."
  type        = map(string)
  default     = {}
}
