"""Image classifiers: a CIFAR ResNet fine-tuned on Fashion-MNIST or on a folder of images."""
