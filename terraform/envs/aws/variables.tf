variable "name" {
  description = "Of cell and cluster, and prefix of every name."
  type        = string
  default     = "sluice"
}

variable "bucket_prefix" {
  description = "Of the buckets' names, which are unique in all of AWS: with your firm's name."
  type        = string
}

variable "region" {
  description = "The cell. Another region is another state of this configuration; they share releases and policies by digest, nothing else."
  type        = string
}

variable "environment" {
  description = "First part of the compliance logs' names, like bank.example. Never another one's, never changed."
  type        = string
}

variable "admins" {
  description = "ARNs of roles that administer the cluster."
  type        = set(string)
}

variable "api_cidrs" {
  description = "Who may reach the API server over the internet. Empty: only the VPC."
  type        = list(string)
  default     = []
}

variable "namespace" {
  description = "Where Sluice is installed."
  type        = string
  default     = "fraud"
}

variable "image_digest" {
  description = "Of the services' image that was pushed to the registry, sha256:..."
  type        = string
}

variable "release" {
  description = "Folder of the model release in the bucket of releases."
  type        = string
}

variable "scram_secret_arns" {
  description = "Secrets Manager secrets of Kafka's principals, see modules/kafka."
  type        = list(string)
  default     = []
}

variable "store_passwords" {
  description = "Of the store's users, see modules/valkey: TF_VAR_store_passwords."
  type        = object({ decider = list(string), featurizer = list(string) })
  sensitive   = true
}

variable "alarm_emails" {
  description = "Who hears of brokers and store."
  type        = set(string)
  default     = []
}

variable "sizes" {
  description = "What costs money. The default is the smallest that loses nothing when a zone is lost."
  type = object({
    nodes          = optional(object({ min = number, max = number }), { min = 3, max = 12 })
    instance_types = optional(list(string), ["c7i.2xlarge"])
    broker         = optional(string, "kafka.m7g.large")
    brokers_a_zone = optional(number, 1)
    store          = optional(string, "cache.r7g.large")
    single_nat     = optional(bool, false)
  })
  default = {}
}
