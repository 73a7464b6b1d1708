variable "description" {
  description = "What the key is for."
  type        = string
}

variable "log_group" {
  description = "Log group of CloudWatch that is encrypted with it, with * for several; empty is none."
  type        = string
  default     = ""
}

variable "alarms" {
  description = "Whether CloudWatch's alarms reach a topic that is encrypted with it."
  type        = bool
  default     = false
}

variable "tags" {
  description = "Of every resource."
  type        = map(string)
  default     = {}
}
