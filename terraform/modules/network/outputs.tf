output "vpc_id" {
  description = "Of the VPC."
  value       = aws_vpc.this.id
}

output "cidr" {
  description = "Its addresses."
  value       = aws_vpc.this.cidr_block
}

output "private_subnet_ids" {
  description = "One a zone, in order of the zones' names."
  value       = [for zone in local.zones : aws_subnet.private[zone].id]
}

output "private_cidrs" {
  description = "Their addresses: what a NetworkPolicy of the chart may name."
  value       = [for zone in local.zones : local.private[zone]]
}

output "public_subnet_ids" {
  description = "One a zone."
  value       = [for zone in local.zones : aws_subnet.public[zone].id]
}
