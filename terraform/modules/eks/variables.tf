variable "name" {
  description = "Of the cluster, and prefix of every name."
  type        = string
}

variable "kubernetes_version" {
  description = "Minor version. The chart is rendered against 1.32 to 1.36 and runs on 1.34 in its tests."
  type        = string
  default     = "1.34"

  validation {
    condition     = can(regex("^1\\.(3[2-6])$", var.kubernetes_version))
    error_message = "kubernetes_version: 1.32 to 1.36."
  }
}

variable "subnet_ids" {
  description = "Private subnets of nodes and pods, two zones at least."
  type        = list(string)

  validation {
    condition     = length(var.subnet_ids) >= 2
    error_message = "subnet_ids: EKS wants two zones at least."
  }
}


variable "api_cidrs" {
  description = "Who may reach the API server over the internet. Empty: only the VPC."
  type        = list(string)
  default     = []

  validation {
    condition     = !contains(var.api_cidrs, "0.0.0.0/0")
    error_message = "api_cidrs: name your networks; 0.0.0.0/0 is the whole internet."
  }
}

variable "admins" {
  description = "ARNs of roles that administer the cluster. Whoever creates it gets no rights by that."
  type        = set(string)

  validation {
    condition     = length(var.admins) > 0
    error_message = "admins: without one nobody can reach the cluster."
  }
}

variable "instance_types" {
  description = "Of the nodes. One thread decides in a pod: cores count, not threads."
  type        = list(string)
  default     = ["c7i.2xlarge"]
}

variable "nodes" {
  description = "How many, at least and at most; a multiple of the zones."
  type        = object({ min = number, max = number })
  default     = { min = 3, max = 12 }

  validation {
    condition     = var.nodes.min >= 1 && var.nodes.max >= var.nodes.min
    error_message = "nodes: 1 <= min <= max."
  }
}

variable "log_days" {
  description = "How long the API server's audit log is kept."
  type        = number
  default     = 365
}

variable "addon_versions" {
  description = "Pinned versions of add-ons, by name. One that is not named takes EKS's default of the day."
  type        = map(string)
  default     = {}
}

variable "tags" {
  description = "Of every resource."
  type        = map(string)
  default     = {}
}
