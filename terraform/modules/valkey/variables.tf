variable "name" {
  description = "Of the replication group."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{0,37}[a-z0-9]$", var.name))
    error_message = "name: ElastiCache takes at most 39 of a-z, 0-9 and -."
  }
}

variable "vpc_id" {
  description = "Where the store lives."
  type        = string
}

variable "subnet_ids" {
  description = "Private subnets, two zones at least."
  type        = list(string)

  validation {
    condition     = length(var.subnet_ids) >= 2
    error_message = "subnet_ids: a replica in the same zone is lost with it."
  }
}

variable "client_security_group_ids" {
  description = "Who may speak to the store, by name: the pods' group."
  type        = map(string)
}

variable "engine_version" {
  description = "Of Valkey."
  type        = string
  default     = "8.0"
}

variable "node_type" {
  description = "Of each node. Sluice needs some 1 KB a card and terminal in use; see docs/how-to/size-a-deployment.md. One thread of the store serves: cores past two help nothing."
  type        = string
  default     = "cache.r7g.large"
}

variable "replicas" {
  description = "Copies in other zones, from which one takes over."
  type        = number
  default     = 1

  validation {
    condition     = var.replicas >= 1 && var.replicas <= 5
    error_message = "replicas: 1 to 5; without one a lost node is an empty store."
  }
}

variable "passwords" {
  description = "Of the users decider and featurizer, 16 to 128 characters; two of a user while one takes the other's place. They stand in Terraform's state: encrypt it."
  type        = object({ decider = list(string), featurizer = list(string) })
  sensitive   = true

  validation {
    condition     = alltrue([for word in concat(var.passwords.decider, var.passwords.featurizer) : length(word) >= 16 && length(word) <= 128])
    error_message = "passwords: 16 to 128 characters each."
  }
}

variable "access_strings" {
  description = "ACL of each user, as docs/how-to/secure-a-deployment.md lists their rights."
  type        = object({ decider = string, featurizer = string })
  default = {
    decider    = "on resetkeys resetchannels -@all %R~*sluice %R~sluice:store ~sluice:idempotency:* ~sluice:pending:* +auth +select +ping +info +multi +exec +hget +hgetall +hmget +get +set +del +eval +rpush +lpush +lrange +ltrim +lrem +expire +pexpire"
    featurizer = "on resetkeys resetchannels -@all ~*sluice ~sluice:store ~sluice:idempotency:* +auth +select +ping +info +hget +hgetall +hmget +hset +hincrby +exists +get +set +eval +evalsha +script|load +script|exists"
  }
}

variable "snapshot_days" {
  description = "Daily snapshots kept. The store is a cache that can be made again; a snapshot makes it faster."
  type        = number
  default     = 1
}

variable "tags" {
  description = "Of every resource."
  type        = map(string)
  default     = {}
}
