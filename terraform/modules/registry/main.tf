# Images: a tag is never pushed anew, each push is scanned.

module "key" {
  source      = "../key"
  description = "${var.name}: images"
  tags        = var.tags
}

resource "aws_ecr_repository" "this" {
  for_each             = var.images
  name                 = "${var.name}/${each.value}"
  image_tag_mutability = "IMMUTABLE"
  force_delete         = false

  image_scanning_configuration {
    scan_on_push = true
  }
  encryption_configuration {
    encryption_type = "KMS"
    kms_key         = module.key.arn
  }
  tags = var.tags
}

resource "aws_ecr_lifecycle_policy" "this" {
  for_each   = var.images
  repository = aws_ecr_repository.this[each.value].name
  policy = jsonencode({
    rules = [{
      rulePriority = 1
      description  = "the newest ${var.keep}"
      selection    = { tagStatus = "any", countType = "imageCountMoreThan", countNumber = var.keep }
      action       = { type = "expire" }
    }]
  })
}
