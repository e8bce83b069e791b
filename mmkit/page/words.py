"""What the page says, in English and Chinese."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Language = Literal["en", "zh"]

ENGLISH = {
    "title": "What a model sees", "language": "English", "model": "Model", "picture": "Picture", "try": "Go",
    "find": "Find", "name": "Name", "ask": "Ask", "caption": "Caption", "explain": "Explain", "sort": "Sort",
    "find_help": "Words find the pictures that fit them best.", "pictures": "Pictures to look through",
    "folder": "{count} pictures of {folder} are looked through.", "words": "Words", "found": "Found",
    "name_help": "Names that you type, one a line, and how likely each is among them.", "names": "Names, one a line",
    "chances": "How likely", "ask_help": "A question about the picture.", "question": "Question", "answers": "Answers",
    "caption_help": "What the model writes about the picture.", "written": "Caption",
    "explain_help": "Where in the picture each word is seen.", "text": "Text", "maps": "Heat maps",
    "sort_help": "The classes that the model was trained for.", "no_picture": "Give a picture first.",
    "no_words": "Write some words first.", "two_names": "Write at least two names, each on a line of its own.",
    "no_pictures": "Give some pictures first.",
    "broken": "This file cannot be read as a picture: it is damaged, or none. Take a JPEG, PNG or WebP.",
    "clip": "A video, or an animated picture",
    "broken_clip": "This file cannot be read as a clip: it is damaged, or none. Take an MP4, GIF or WebP.",
    "huge": "This picture has too many pixels (more than {most} million). Make it smaller first.",
    "many": "Too many pictures: at most {most} at a time.", "failed": "This did not work: {why}",
}  # fmt: skip
CHINESE = {
    "title": "看看模型看到了什么", "language": "中文", "model": "模型", "picture": "图片", "try": "开始",
    "find": "搜图", "name": "命名", "ask": "提问", "caption": "描述", "explain": "解释", "sort": "分类",
    "find_help": "输入文字，找出最相符的图片。", "pictures": "要搜索的图片",
    "folder": "在 {folder} 的 {count} 张图片中搜索。", "words": "文字", "found": "结果",
    "name_help": "每行写一个名称，看图片更像哪一个。", "names": "名称，每行一个",
    "chances": "可能性", "ask_help": "就图片提一个问题。", "question": "问题", "answers": "回答",
    "caption_help": "模型为图片写的描述。", "written": "描述",
    "explain_help": "每个词对应图片中的哪个位置。", "text": "文字", "maps": "热力图",
    "sort_help": "模型训练时的类别。", "no_picture": "请先选择一张图片。",
    "no_words": "请先输入文字。", "two_names": "请至少写两个名称，每行一个。",
    "no_pictures": "请先选择一些图片。",
    "broken": "无法读取这个文件：它已损坏，或者不是图片。请使用 JPEG、PNG 或 WebP。",
    "clip": "视频或动图", "broken_clip": "无法读取这个文件：它已损坏，或者不是视频或动图。请使用 MP4、GIF 或 WebP。",
    "huge": "这张图片的像素太多（超过 {most} 百万）。请先缩小。",
    "many": "图片太多：一次最多 {most} 张。", "failed": "没有成功：{why}",
}  # fmt: skip
LANGUAGES: Mapping[Language, Mapping[str, str]] = {"en": ENGLISH, "zh": CHINESE}
