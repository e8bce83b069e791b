"""Picture models of timm and torchvision by name, with their published weights or those of a file."""
