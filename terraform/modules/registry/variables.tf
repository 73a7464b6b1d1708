variable "name" {
  description = "Prefix of the repositories."
  type        = string
}

variable "images" {
  description = "Repositories: the services' image, that of training, the loader's."
  type        = set(string)
  default     = ["sluice", "sluice-training", "sluice-loader"]
}

variable "keep" {
  description = "How many images of each are kept. Never fewer than can be rolled back to."
  type        = number
  default     = 50

  validation {
    condition     = var.keep >= 10
    error_message = "keep: 10 at least."
  }
}

variable "tags" {
  description = "Of every resource."
  type        = map(string)
  default     = {}
}
