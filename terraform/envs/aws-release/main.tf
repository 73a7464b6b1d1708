# The chart in the cluster that ../aws made. Its Secrets (Kafka's principals, the store's URLs) are made
# before, by whoever holds the passwords: none passes through here.

terraform {
  required_version = ">= 1.9"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
    helm = {
      source  = "hashicorp/helm"
      version = "~> 3.0"
    }
  }
  backend "s3" {}
}

variable "state" {
  description = "Bucket, key and region of the state of ../aws."
  type        = object({ bucket = string, key = string, region = string })
}

variable "values" {
  description = "Files of your own values: access, trust, policy; later ones win."
  type        = list(string)
  default     = []
}

data "terraform_remote_state" "cell" {
  backend = "s3"
  config  = var.state
}

locals {
  cell = data.terraform_remote_state.cell.outputs
}

data "aws_eks_cluster_auth" "this" {
  name = local.cell.cluster.name
}

provider "aws" {
  region = var.state.region
}

provider "helm" {
  kubernetes = {
    host                   = local.cell.cluster.endpoint
    cluster_ca_certificate = base64decode(local.cell.cluster.certificate_authority)
    token                  = data.aws_eks_cluster_auth.this.token
  }
}

resource "helm_release" "sluice" {
  name             = "sluice"
  namespace        = local.cell.cluster.namespace
  create_namespace = false
  chart            = "${path.module}/../../../charts/sluice"
  values           = concat([local.cell.values], [for file in var.values : file(file)])
  atomic           = true
  timeout          = 900
}
