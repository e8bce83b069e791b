"""Picture models of timm and torchvision as image towers, all by one contract."""
