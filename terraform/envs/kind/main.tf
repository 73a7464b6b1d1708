# A cluster on a laptop with Docker, and the chart on it as charts/sluice/ci/kind.yaml has it. KServe,
# metrics-server and the images are put there by `make kind`, which needs no Terraform: this is for
# those whose laptops are described in it too.

terraform {
  required_version = ">= 1.9"
  required_providers {
    kind = {
      source  = "tehcyx/kind"
      version = "~> 0.11"
    }
    helm = {
      source  = "hashicorp/helm"
      version = "~> 3.0"
    }
  }
}

variable "node_image" {
  description = "kindest/node, by digest."
  type        = string
}

resource "kind_cluster" "this" {
  name           = "sluice"
  node_image     = var.node_image
  wait_for_ready = true
}

provider "helm" {
  kubernetes = {
    host                   = kind_cluster.this.endpoint
    cluster_ca_certificate = kind_cluster.this.cluster_ca_certificate
    client_certificate     = kind_cluster.this.client_certificate
    client_key             = kind_cluster.this.client_key
  }
}

resource "helm_release" "sluice" {
  name             = "sluice"
  namespace        = "sluice"
  create_namespace = true
  chart            = "${path.module}/../../../charts/sluice"
  values           = [file("${path.module}/../../../charts/sluice/ci/kind.yaml"), yamlencode({ serving = { mode = "deployment" } })]
  timeout          = 600
}

output "kubeconfig" {
  description = "For kubectl."
  value       = kind_cluster.this.kubeconfig
  sensitive   = true
}
