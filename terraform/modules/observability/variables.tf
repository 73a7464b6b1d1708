variable "name" {
  description = "Prefix of every name."
  type        = string
}

variable "kafka_cluster_name" {
  description = "The MSK cluster that is watched."
  type        = string
}

variable "kafka_brokers" {
  description = "How many it has."
  type        = number
}

variable "store_nodes" {
  description = "Ids of the store's nodes."
  type        = list(string)
}

variable "alarm_emails" {
  description = "Who hears of an alarm. AWS asks each by mail first. A pager subscribes to the topic."
  type        = set(string)
  default     = []
}

variable "tags" {
  description = "Of every resource."
  type        = map(string)
  default     = {}
}
