terraform {
  required_version = ">= 1.9"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }
  # The state holds the store's passwords: an encrypted bucket that few may read.
  #   terraform init -backend-config=bucket=... -backend-config=key=sluice/eu1 -backend-config=region=... -backend-config=use_lockfile=true -backend-config=encrypt=true
  backend "s3" {}
}

provider "aws" {
  region = var.region
  default_tags {
    tags = local.tags
  }
}
